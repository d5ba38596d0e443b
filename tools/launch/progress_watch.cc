#include "tools/launch/progress_watch.h"

#include <grpcpp/grpcpp.h>

#include <thread>

#include "absl/synchronization/mutex.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "palimpsest/v1/orchestrator.grpc.pb.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kRetry = absl::Milliseconds(500);
constexpr absl::Duration kCall = absl::Hours(24);  // of one stream; it is opened again then
constexpr double kMinInterval = 1;                 // seconds between two messages

}  // namespace

struct ProgressWatch::Impl {
  std::string folder;
  Tls tls;
  std::function<void(const v1::Progress&)> show;
  absl::Mutex mu;
  bool stopped ABSL_GUARDED_BY(mu) = false;
  grpc::ClientContext* call ABSL_GUARDED_BY(mu) = nullptr;  // the one that runs
  std::thread thread;

  void Follow() {
    for (bool once_more = true; once_more; once_more = Pause()) {
      const absl::StatusOr<Address> address = ReadAddress(folder, "orchestrator", 0);
      if (address.ok()) Watch(address->host_port);
    }
  }

  // False when it is time to end.
  bool Pause() {
    const absl::MutexLock lock(&mu);
    return !mu.AwaitWithTimeout(absl::Condition(&stopped), kRetry);
  }

  // Takes or gives back the running call; false when it shall not run any more.
  bool SetCall(grpc::ClientContext* context) {
    const absl::MutexLock lock(&mu);
    call = stopped ? nullptr : context;
    return !stopped;
  }

  void Watch(const std::string& host_port) {
    const auto channel = MakeChannel(host_port, ChannelConfig{}, tls.Peer(Role::kOrchestrator));
    if (!channel.ok()) return;
    const auto stub = v1::OrchestratorService::NewStub(*channel);
    const auto context = MakeContext(ChannelConfig{});
    SetTimeout(*context, kCall);
    if (!SetCall(context.get())) return;
    v1::WatchProgressRequest request;
    request.set_min_interval_seconds(kMinInterval);
    const auto stream = stub->WatchProgress(context.get(), request);
    v1::WatchProgressResponse response;
    while (stream->Read(&response)) show(response.progress());
    stream->Finish();
    SetCall(nullptr);
  }
};

ProgressWatch::ProgressWatch(const std::string& run_folder, const Tls& tls,
                             std::function<void(const v1::Progress&)> show)
    : impl_(std::make_unique<Impl>()) {
  impl_->folder = run_folder;
  impl_->tls = tls;
  impl_->show = std::move(show);
  impl_->thread = std::thread([impl = impl_.get()] { impl->Follow(); });
}

ProgressWatch::~ProgressWatch() {
  {
    const absl::MutexLock lock(&impl_->mu);
    impl_->stopped = true;
    if (impl_->call != nullptr) impl_->call->TryCancel();
  }
  impl_->thread.join();
}

}  // namespace palimpsest::tools
