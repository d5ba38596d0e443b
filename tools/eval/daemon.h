#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "palimpsest/v1/environment.grpc.pb.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tools/eval/services.h"

namespace palimpsest::tools::eval {

inline constexpr absl::Duration kQuick = absl::Seconds(20);
inline constexpr absl::Duration kEnvDeadline = absl::Minutes(3);  // some prompts take seconds

// A daemon wherever it is. Any thread.
template <class Service>
class Daemon {
 public:
  using Stub = typename Service::Stub;
  Daemon(Where where, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : where_(std::move(where)), credentials_(std::move(credentials)) {}

  // One attempt. `call`: grpc::Status(Stub&, grpc::ClientContext*).
  template <class Fn>
  absl::Status Call(absl::Duration deadline, Fn&& call) const {
    ASSIGN_OR_RETURN(const std::shared_ptr<Stub> stub, Connected());
    const auto context = MakeContext(ChannelConfig{});
    SetTimeout(*context, deadline);
    const absl::Status status = FromGrpc(call(*stub, context.get()));
    // Of a connection whose other end has vanished nothing but the deadline tells at first.
    if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) Forget(stub);
    return status;
  }

 private:
  absl::StatusOr<std::shared_ptr<Stub>> Connected() const {
    const absl::MutexLock lock(&mu_);
    if (stub_ == nullptr) {
      ASSIGN_OR_RETURN(const std::string address, where_());
      ASSIGN_OR_RETURN(const auto channel, MakeChannel(address, ChannelConfig{}, credentials_));
      stub_ = Service::NewStub(channel);
    }
    return stub_;
  }
  void Forget(const std::shared_ptr<Stub>& stub) const {
    const absl::MutexLock lock(&mu_);
    if (stub_ == stub) stub_ = nullptr;
  }

  const Where where_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  mutable absl::Mutex mu_;
  mutable std::shared_ptr<Stub> stub_ ABSL_GUARDED_BY(mu_);
};

struct Daemons {
  Daemon<v1::InferenceService> inference;
  Daemon<v1::EnvironmentService> env;
};

}  // namespace palimpsest::tools::eval
