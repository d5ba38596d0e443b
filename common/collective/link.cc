#include "common/collective/link.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

constexpr size_t kMostAtOnce = 1 << 30;  // bytes; OpenSSL takes an int

absl::Status Broken(std::string_view what) {
  const unsigned long code = ERR_get_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return absl::UnavailableError(absl::StrFormat("%s%s%s", what, reason == nullptr ? "" : ": ",
                                                reason == nullptr ? "" : reason));
}

absl::Status CheckRole(const SSL* session, Role peer) {
  const X509* const certificate = SSL_get0_peer_certificate(session);
  if (certificate == nullptr) return absl::PermissionDeniedError("it shows no certificate");
  const absl::StatusOr<Role> role = RoleOf(*certificate);
  if (!role.ok()) return absl::PermissionDeniedError(std::string(role.status().message()));
  if (*role == peer) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrFormat("it shows the role %s, not %s", RoleName(*role), RoleName(peer)));
}

}  // namespace

absl::StatusOr<LinkContext> LinkContext::Make(const Identity& identity) {
  LinkContext made;
  made.context_ = {SSL_CTX_new(TLS_method()), SSL_CTX_free};
  SSL_CTX* const context = made.context_.get();
  bool ok = SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
            SSL_CTX_use_certificate(context, identity.certificate.get()) == 1 &&
            SSL_CTX_use_PrivateKey(context, identity.key.get()) == 1 &&
            SSL_CTX_set1_verify_cert_store(context, identity.believed.get()) == 1;
  for (const auto& between : identity.chain) {
    ok = ok && SSL_CTX_add1_chain_cert(context, between.get()) == 1;
  }
  if (!ok) return Broken("these certificates cannot be used");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  return made;
}

absl::StatusOr<Link> Link::Open(UniqueFd socket, Side side, const LinkContext& context, Role peer,
                                const Deadline& deadline, Clock& clock) {
  const std::shared_ptr<SSL> session(SSL_new(context.get()), SSL_free);
  if (session == nullptr || SSL_set_fd(session.get(), socket.get()) != 1)
    return Broken("no session");
  Link link(std::move(socket), session, clock);
  for (;;) {
    ERR_clear_error();
    const int done =
        side == Side::kAccepts ? SSL_accept(session.get()) : SSL_connect(session.get());
    if (done == 1) break;
    if (const long verdict = SSL_get_verify_result(session.get()); verdict != X509_V_OK) {
      return absl::PermissionDeniedError(absl::StrFormat(
          "its certificate is not to be believed: %s", X509_verify_cert_error_string(verdict)));
    }
    RETURN_IF_ERROR(link.AwaitSocket(done, deadline));
  }
  RETURN_IF_ERROR(CheckRole(session.get(), peer));
  return link;
}

absl::Status Link::AwaitSocket(int result, const Deadline& deadline) const {
  switch (SSL_get_error(session_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return AwaitEvents(socket_, POLLIN, deadline, *clock_);
    case SSL_ERROR_WANT_WRITE:
      return AwaitEvents(socket_, POLLOUT, deadline, *clock_);
    default:
      return Broken("the connection broke");
  }
}

absl::Status Link::Write(std::string_view bytes, const Deadline& deadline) {
  while (!bytes.empty()) {
    ERR_clear_error();
    const int n = SSL_write(session_.get(), bytes.data(),
                            static_cast<int>(std::min(bytes.size(), kMostAtOnce)));
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else {
      RETURN_IF_ERROR(AwaitSocket(n, deadline));
    }
  }
  return absl::OkStatus();
}

absl::Status Link::Read(std::span<char> bytes, const Deadline& deadline) {
  while (!bytes.empty()) {
    ERR_clear_error();
    const int n = SSL_read(session_.get(), bytes.data(),
                           static_cast<int>(std::min(bytes.size(), kMostAtOnce)));
    if (n > 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else {
      RETURN_IF_ERROR(AwaitSocket(n, deadline));
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
