#include "common/rpc/channel.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_interceptor.h>

#include <chrono>

#include "common/base/status.h"
#include "common/rpc/call_trace.h"
#include "common/telemetry/log.h"

namespace palimpsest {
namespace {

int Millis(absl::Duration d) { return static_cast<int>(absl::ToInt64Milliseconds(d)); }

// A service config with a default timeout would be the shorter way, but the timers of gRPC 1.51
// that come from it fire more than a second early.
class DeadlineGuard final : public grpc::experimental::Interceptor {
 public:
  explicit DeadlineGuard(grpc::experimental::ClientRpcInfo* info) : info_(info) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    grpc::ClientContext* context = info_->client_context();
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA) &&
        context->deadline() == std::chrono::system_clock::time_point::max()) {
      Log(Severity::kError, "call without a deadline is cancelled", {{"method", info_->method()}});
      context->TryCancel();
    }
    methods->Proceed();
  }

 private:
  grpc::experimental::ClientRpcInfo* info_;  // outlives its interceptors
};

class DeadlineGuardFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    return new DeadlineGuard(info);
  }
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const std::string& address, const ChannelConfig& config,
    std::shared_ptr<grpc::ChannelCredentials> credentials) {
  RETURN_IF_ERROR(Validate(config));
  if (address.empty()) return absl::InvalidArgumentError("the address of a channel is empty");
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(config.max_message));
  arguments.SetMaxSendMessageSize(static_cast<int>(config.max_message));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(config.keepalive));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(config.keepalive_timeout));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // In spite of its name: the time that one attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Millis(config.max_reconnect_backoff));
  // A proxy of the environment is never meant for daemons of one run.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Nobody but us says how this channel behaves.
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  // One connection per channel: metrics and losses of one peer are not mixed with another's.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> guards;
  guards.push_back(std::make_unique<DeadlineGuardFactory>());
  guards.push_back(MakeClientTrace());
  if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
  return grpc::experimental::CreateCustomChannelWithInterceptors(address, credentials, arguments,
                                                                 std::move(guards));
}

void KeepCallbackQueue() {
  struct Kept {
    std::shared_ptr<grpc::Channel> channel =
        grpc::CreateChannel("ipv4:127.0.0.1:1", grpc::InsecureChannelCredentials());
    grpc::GenericStub stub{channel};
    grpc::ClientContext context;
    grpc::Slice nothing;
    grpc::ByteBuffer request{&nothing, 1}, response;
  };
  static const Kept* const kept = [] {
    auto* const one = new Kept;
    one->context.set_deadline(std::chrono::system_clock::now());  // over before it begins
    one->stub.UnaryCall(&one->context, "/none", {}, &one->request, &one->response,
                        [](const grpc::Status&) {});
    return one;
  }();
  static_cast<void>(kept);
}

std::unique_ptr<grpc::ClientContext> MakeContext(const ChannelConfig& config) {
  auto context = std::make_unique<grpc::ClientContext>();
  SetTimeout(*context, config.call_deadline);
  return context;
}

void SetTimeout(grpc::ClientContext& context, absl::Duration timeout) {
  context.set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_nanos(absl::ToInt64Nanoseconds(timeout), GPR_TIMESPAN)));
}

}  // namespace palimpsest
