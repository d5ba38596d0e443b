#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "common/collective/socket.h"
#include "common/tls/identity.h"

struct ssl_ctx_st;
struct ssl_st;

namespace palimpsest {

// What links of one process share: TLS 1.3, both sides show a certificate under a CA of
// identity.believed.
class LinkContext {
 public:
  static absl::StatusOr<LinkContext> Make(const Identity& identity);
  ssl_ctx_st* get() const { return context_.get(); }

 private:
  std::shared_ptr<ssl_ctx_st> context_;
};

// One TCP connection under mutual TLS whose other side has shown the role that was asked for. One
// thread. An error is final. SIGPIPE is to be ignored in the process.
class Link {
 public:
  enum class Side { kAccepts, kConnects };
  // Shakes hands. PERMISSION_DENIED: the other one is not believed, or is of another role.
  static absl::StatusOr<Link> Open(UniqueFd socket, Side side, const LinkContext& context,
                                   Role peer, const Deadline& deadline, Clock& clock);

  // All of `bytes`. DEADLINE_EXCEEDED, CANCELLED (given up), UNAVAILABLE (the connection broke).
  absl::Status Write(std::string_view bytes, const Deadline& deadline);
  absl::Status Read(std::span<char> bytes, const Deadline& deadline);

 private:
  Link(UniqueFd socket, std::shared_ptr<ssl_st> session, Clock& clock)
      : socket_(std::move(socket)), session_(std::move(session)), clock_(&clock) {}
  // After `result` of an OpenSSL call: OK when it is to be repeated, once the socket can go on.
  absl::Status AwaitSocket(int result, const Deadline& deadline) const;

  UniqueFd socket_;
  std::shared_ptr<ssl_st> session_;
  Clock* clock_;
};

}  // namespace palimpsest
