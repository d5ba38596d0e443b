#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/rpc/config.h"
#include "common/rpc/tls.h"
#include "common/telemetry/metrics.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace palimpsest {

// What others connect to: `advertise`, or `host`, or for a wildcard the name of this machine.
std::string AdvertisedHost(const RpcServerConfig& config);

// One gRPC server with gRPC's health service, reflection, keepalive, limits, access control and
// call metrics. Any thread.
class RpcServer {
 public:
  // Serves at once. `services`, `metrics` and `clock` must outlive the server. A port that is taken
  // is kUnavailable; SO_REUSEPORT is off, so two daemons never share one. In clear text `config`
  // must say `insecure` to go beyond loopback.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const RpcServerConfig& config, const std::vector<grpc::Service*>& services, Metrics& metrics,
      Clock& clock, const Tls& tls = {});
  ~RpcServer();  // Shutdown()

  int port() const { return port_; }
  // host:port for other daemons.
  const std::string& address() const { return address_; }

  // Calls from this process, without a network between. Nobody is asked who they are: under TLS
  // whoever lets others in by it must have asked them.
  std::shared_ptr<grpc::Channel> InProcess();

  // What the health service answers; "" is the server as a whole, which serves from the start.
  void SetServing(const std::string& service, bool serving);

  // Health turns to NOT_SERVING, new calls are refused, running ones get config.drain to end and
  // are cancelled then. Blocks; harmless when repeated.
  void Shutdown();

 private:
  RpcServer(const RpcServerConfig& config, std::unique_ptr<grpc::Server> server, int port);

  absl::Duration drain_;
  std::unique_ptr<grpc::Server> server_;
  int port_;
  std::string address_;
};

}  // namespace palimpsest
