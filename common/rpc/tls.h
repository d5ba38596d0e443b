#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/telemetry/metrics.h"
#include "common/tls/section.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
namespace experimental {
class CertificateProviderInterface;
}  // namespace experimental
}  // namespace grpc

namespace palimpsest {

class Https;

// Mutual TLS of one process, under its role, or clear text. Files that are replaced are used by new
// connections within `tls.reload`; those that stand go on. A value; copies share the files.
class Tls {
 public:
  Tls() = default;  // clear text: everybody may call everything

  // Clear text unless `c` is on. INVALID_ARGUMENT as ReadIdentity. `clock` must outlive it.
  static absl::StatusOr<Tls> Open(const TlsSection& c, Role own, Clock& clock);

  bool on() const { return provider_ != nullptr; }

  // Clients must show a certificate that names a role, and every call of theirs, of whatever
  // service, is held against the table of common/tls/access.h before a handler hears of it.
  // `metrics` must outlive the server.
  std::shared_ptr<grpc::ServerCredentials> Server(Metrics& metrics) const;

  // The server must show the role `peer`, whatever host it is on: addresses come from the run's
  // folder, and names of nodes are not known when certificates are made.
  std::shared_ptr<grpc::ChannelCredentials> Peer(Role peer) const;

  // For servers of HTTP; null in clear text.
  const std::shared_ptr<Https>& https() const { return https_; }

 private:
  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
  std::shared_ptr<Https> https_;
};

}  // namespace palimpsest
