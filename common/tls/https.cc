#include "common/tls/https.h"

#include <openssl/ssl.h>

#include "common/base/status.h"
#include "common/tls/access.h"

namespace palimpsest {

absl::StatusOr<std::shared_ptr<Https>> Https::Open(const TlsSection& c, Role role, Clock& clock) {
  ASSIGN_OR_RETURN(Identity identity, ReadIdentity(c, role, clock.Now()));
  return std::shared_ptr<Https>(
      new Https(c, role, clock, std::make_shared<const Identity>(std::move(identity))));
}

std::shared_ptr<const Identity> Https::Now() {
  const absl::MutexLock lock(&mu_);
  const absl::Time now = clock_.Now();
  if (now < read_at_ + section_.reload) return identity_;
  read_at_ = now;
  absl::StatusOr<Identity> read = ReadIdentity(section_, role_, now);
  if (read.ok()) identity_ = std::make_shared<const Identity>(*std::move(read));
  return identity_;
}

// OpenSSL copies or counts what it is given, so that `identity` may go.
int Https::BeforeHandshake(ssl_st* session, void* self) {
  const std::shared_ptr<const Identity> identity = static_cast<Https*>(self)->Now();
  if (SSL_use_certificate(session, identity->certificate.get()) != 1 ||
      SSL_use_PrivateKey(session, identity->key.get()) != 1) {
    return 0;
  }
  for (const auto& between : identity->chain) {
    if (SSL_add1_chain_cert(session, between.get()) != 1) return 0;
  }
  return SSL_set1_verify_cert_store(session, identity->believed.get()) == 1 ? 1 : 0;
}

void Https::Configure(ssl_ctx_st* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  // A resumed session would bring a client in whose CA is believed no more.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_cert_cb(context, BeforeHandshake, this);
}

absl::Status Https::Check(const ssl_st* session, std::string_view method) {
  const X509* const peer = session == nullptr ? nullptr : SSL_get0_peer_certificate(session);
  if (peer == nullptr) return absl::PermissionDeniedError("the client shows no certificate");
  const absl::StatusOr<Role> role = RoleOf(*peer);
  if (!role.ok()) return absl::PermissionDeniedError(std::string(role.status().message()));
  return CheckAccess(*role, method);
}

}  // namespace palimpsest
