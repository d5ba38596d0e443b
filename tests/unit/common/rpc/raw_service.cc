#include "tests/unit/common/rpc/raw_service.h"

#include <grpcpp/alarm.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/support/server_callback.h>

#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace palimpsest {
namespace {

using grpc::ByteBuffer;
using Handler = grpc::internal::CallbackUnaryHandler<ByteBuffer, ByteBuffer>;

class HangReactor final : public grpc::ServerUnaryReactor {
 public:
  void OnCancel() override { Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }
};

class SlowReactor final : public grpc::ServerUnaryReactor {
 public:
  SlowReactor() {
    alarm_.Set(std::chrono::system_clock::now() + std::chrono::milliseconds(300),
               [this](bool) { Finish(grpc::Status::OK); });
  }
  void OnDone() override { delete this; }

 private:
  grpc::Alarm alarm_;
};

grpc::ServerUnaryReactor* Finished(grpc::CallbackServerContext* context,
                                   const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

std::string ToString(const ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (!buffer.Dump(&slices).ok()) return out;
  for (const grpc::Slice& slice : slices) {
    out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out;
}

}  // namespace

RawService::RawService(const RawNames& names) {
  const auto add = [this](int index, const char* name, auto reactor) {
    AddMethod(
        new grpc::internal::RpcServiceMethod(name, grpc::internal::RpcMethod::NORMAL_RPC, nullptr));
    MarkMethodCallback(index, new Handler(reactor));
  };
  add(0, names.echo,
      [](grpc::CallbackServerContext* context, const ByteBuffer* request, ByteBuffer* response) {
        *response = *request;
        return Finished(context, grpc::Status::OK);
      });
  add(1, names.fail, [](grpc::CallbackServerContext* context, const ByteBuffer*, ByteBuffer*) {
    return Finished(context, ToGrpc(absl::FailedPreconditionError("not yet")));
  });
  add(2, names.hang,
      [](grpc::CallbackServerContext*, const ByteBuffer*,
         ByteBuffer*) -> grpc::ServerUnaryReactor* { return new HangReactor; });
  add(3, names.slow,
      [](grpc::CallbackServerContext*, const ByteBuffer* request,
         ByteBuffer* response) -> grpc::ServerUnaryReactor* {
        *response = *request;
        return new SlowReactor;
      });
}

absl::StatusOr<std::string> CallRaw(const std::shared_ptr<grpc::Channel>& channel,
                                    const char* method, const std::string& request,
                                    absl::Duration timeout, const std::string& header) {
  grpc::ClientContext context;
  if (!header.empty()) context.AddMetadata("x-test", header);
  if (timeout != absl::InfiniteDuration()) SetTimeout(context, timeout);
  const grpc::Slice slice(request);
  const ByteBuffer bytes(&slice, 1);
  ByteBuffer response;
  const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status = grpc::internal::BlockingUnaryCall<ByteBuffer, ByteBuffer>(
      channel.get(), rpc, &context, bytes, &response);
  if (!status.ok()) return FromGrpc(status);
  return ToString(response);
}

absl::StatusOr<bool> CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                                 const std::string& service) {
  // HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1}, by hand.
  std::string request;
  if (!service.empty()) request = "\x0a" + std::string(1, char(service.size())) + service;
  const absl::StatusOr<std::string> response =
      CallRaw(channel, "/grpc.health.v1.Health/Check", request);
  if (!response.ok()) return response.status();
  return *response == "\x08\x01";
}

}  // namespace palimpsest
