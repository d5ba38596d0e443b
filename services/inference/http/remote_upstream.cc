#include "services/inference/http/remote_upstream.h"

#include <grpcpp/grpcpp.h>

#include "absl/synchronization/notification.h"
#include "common/rpc/status.h"

namespace palimpsest::inference {
namespace {

constexpr absl::Duration kInfoPatience = absl::Seconds(5);

}  // namespace

void RemoteUpstream::Calls::Add(int n) {
  const absl::MutexLock lock(&mu_);
  open_ += n;
}

void RemoteUpstream::Calls::WaitForNone() {
  const absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(
      +[](int* open) { return *open == 0; }, &open_));
}

RemoteUpstream::~RemoteUpstream() { calls_->WaitForNone(); }

namespace {

// One call. It holds itself until it is over; whoever leaves it hears nothing more from then on.
// Over is when its context is gone, too, which holds the channel: where a thread of gRPC's is the
// last that lets go of a channel, it waits for itself, and aborts (1.51).
class Stream final : public grpc::ClientReadReactor<v1::GenerateResponse>,
                     public std::enable_shared_from_this<Stream> {
 public:
  Stream(v1::GenerateRequest request, std::shared_ptr<Inbox::Feed> feed,
         std::shared_ptr<RemoteUpstream::Calls> calls)
      : request_(std::move(request)), calls_(std::move(calls)), feed_(std::move(feed)) {}

  // Returns when the first message or the end has come.
  void Run(v1::InferenceService::Stub& stub, absl::Time deadline) {
    self_ = shared_from_this();
    calls_->Add(1);
    context_->set_deadline(absl::ToChronoTime(deadline));
    stub.async()->Generate(context_.get(), &request_, this);
    StartRead(&update_);
    StartCall();
    begun_.WaitForNotification();
  }
  void Leave() {
    const absl::MutexLock lock(&mu_);
    feed_ = nullptr;
    if (context_ != nullptr) context_->TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      const absl::MutexLock lock(&mu_);
      const bool bounded = update_.has_tokens() || update_.has_compaction();
      auto update = std::make_shared<const v1::GenerateResponse>(std::move(update_));
      if (feed_ == nullptr || !feed_->Put(std::move(update), bounded)) context_->TryCancel();
    }
    update_.Clear();
    Begun();
    StartRead(&update_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Stream> self = std::move(self_);
    {
      const absl::MutexLock lock(&mu_);
      if (feed_ != nullptr) feed_->End(FromGrpc(status));
      feed_ = nullptr;
      context_ = nullptr;
    }
    calls_->Add(-1);
    Begun();
  }

 private:
  void Begun() {
    if (!begun_.HasBeenNotified()) begun_.Notify();
  }

  const v1::GenerateRequest request_;
  const std::shared_ptr<RemoteUpstream::Calls> calls_;
  // Null once the call is over. Set before it begins, so that its own callbacks need no lock.
  std::unique_ptr<grpc::ClientContext> context_ = std::make_unique<grpc::ClientContext>();
  v1::GenerateResponse update_;
  absl::Notification begun_;
  std::shared_ptr<Stream> self_;  // until OnDone
  absl::Mutex mu_;
  std::shared_ptr<Inbox::Feed> feed_ ABSL_GUARDED_BY(mu_);  // null: nobody listens
};

}  // namespace

absl::StatusOr<Upstream::Model> RemoteUpstream::model() const {
  v1::InferenceServiceGetServerInfoRequest request;
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  v1::InferenceServiceGetServerInfoResponse response;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kInfoPatience));
  RETURN_IF_ERROR(FromGrpc(stub_->GetServerInfo(&context, request, &response)));
  if (response.model().max_position() == 0) {
    return absl::UnavailableError("starting: no replica has loaded weights yet");
  }
  return Model{response.model().max_position(), response.policy_version()};
}

absl::Status RemoteUpstream::Generate(const v1::GenerateRequest& request, absl::Time deadline,
                                      const std::shared_ptr<Inbox::Feed>& feed) {
  const auto stream = std::make_shared<Stream>(request, feed, calls_);
  feed->LeaveBy([stream] { stream->Leave(); });
  stream->Run(*stub_, deadline);
  return absl::OkStatus();
}

}  // namespace palimpsest::inference
