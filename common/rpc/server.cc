#include "common/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <unistd.h>

#include <array>
#include <mutex>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/rpc/call_trace.h"
#include "common/rpc/server_metrics.h"

namespace palimpsest {
namespace {

// From a connection to the end of its handshake: who says nothing holds a socket no longer.
constexpr absl::Duration kHandshake = absl::Seconds(20);

int Millis(absl::Duration d) { return static_cast<int>(absl::ToInt64Milliseconds(d)); }

void SetArguments(const RpcServerConfig& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message));
  builder.SetMaxSendMessageSize(static_cast<int>(config.max_message));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(config.max_metadata));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_streams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Millis(kHandshake));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(config.keepalive));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(config.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Half of the shortest keepalive that ChannelConfig allows: our own clients are never refused.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
}

}  // namespace

std::string AdvertisedHost(const RpcServerConfig& config) {
  if (!config.advertise.empty()) return config.advertise;
  if (config.host != "0.0.0.0" && config.host != "::") return config.host;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const RpcServerConfig& config, const std::vector<grpc::Service*>& services, Metrics& metrics,
    Clock& clock, const Tls& tls) {
  RETURN_IF_ERROR(Validate(config));
  RETURN_IF_ERROR(CheckReach("host", config.host, config.host, config.insecure, tls.on()));
  if (services.empty()) return absl::InvalidArgumentError("a server needs a service");
  // Process-wide switches of gRPC that every later builder reads.
  static std::once_flag switches;
  std::call_once(switches, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });

  grpc::ServerBuilder builder;
  SetArguments(config, builder);
  int port = 0;
  const std::string listen = JoinHostPort(config.host, config.port);
  builder.AddListeningPort(listen, tls.Server(metrics), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeServerMetrics(metrics, clock));
  interceptors.push_back(MakeServerTrace(clock));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrFormat("cannot listen on %s: the port is taken or the host is not ours", listen));
  }
  return std::unique_ptr<RpcServer>(new RpcServer(config, std::move(server), port));
}

RpcServer::RpcServer(const RpcServerConfig& config, std::unique_ptr<grpc::Server> server, int port)
    : drain_(config.drain),
      server_(std::move(server)),
      port_(port),
      address_(JoinHostPort(AdvertisedHost(config), port)) {}

RpcServer::~RpcServer() { Shutdown(); }

std::shared_ptr<grpc::Channel> RpcServer::InProcess() {
  return server_->InProcessChannel(grpc::ChannelArguments());
}

void RpcServer::SetServing(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

void RpcServer::Shutdown() {
  server_->GetHealthCheckService()->Shutdown();
  const gpr_timespec drain = gpr_time_from_nanos(absl::ToInt64Nanoseconds(drain_), GPR_TIMESPAN);
  server_->Shutdown(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), drain));
  server_->Wait();
}

}  // namespace palimpsest
