#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/tls/identity.h"

struct ssl_ctx_st;
struct ssl_st;

namespace palimpsest {

// The server's side of HTTPS under the certificates of a run: every client must show one, too.
// Any thread.
class Https {
 public:
  // As ReadIdentity. `clock` must outlive it.
  static absl::StatusOr<std::shared_ptr<Https>> Open(const TlsSection& c, Role role, Clock& clock);

  // Makes `context` such a server's; this must outlive it. Each handshake uses the files as they
  // are by then (see TlsSection.reload). Files that are not sound leave the last sound ones in use.
  void Configure(ssl_ctx_st* context);

  // PERMISSION_DENIED unless the client behind `session` may call `method` (access.h).
  static absl::Status Check(const ssl_st* session, std::string_view method);

 private:
  Https(const TlsSection& c, Role role, Clock& clock, std::shared_ptr<const Identity> identity)
      : section_(c),
        role_(role),
        clock_(clock),
        identity_(std::move(identity)),
        read_at_(clock.Now()) {}
  std::shared_ptr<const Identity> Now();
  static int BeforeHandshake(ssl_st* session, void* self);

  const TlsSection section_;
  const Role role_;
  Clock& clock_;
  absl::Mutex mu_;
  std::shared_ptr<const Identity> identity_ ABSL_GUARDED_BY(mu_);
  absl::Time read_at_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest
