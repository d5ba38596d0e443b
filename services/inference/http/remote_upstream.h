#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "absl/synchronization/mutex.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "services/inference/http/upstream.h"

namespace palimpsest::inference {

// What speaks InferenceService at the other end of a channel: a router, and behind it its fleet.
class RemoteUpstream final : public Upstream {
 public:
  // How many calls are not over. Any thread.
  class Calls {
   public:
    void Add(int n);
    void WaitForNone();

   private:
    absl::Mutex mu_;
    int open_ ABSL_GUARDED_BY(mu_) = 0;
  };

  RemoteUpstream(const std::shared_ptr<grpc::Channel>& channel,
                 std::shared_ptr<const Tokenizer> tokenizer)
      : stub_(v1::InferenceService::NewStub(channel)), tokenizer_(std::move(tokenizer)) {}
  // Waits until the last call is over; whoever asked has left it before.
  ~RemoteUpstream() override;

  absl::StatusOr<Model> model() const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return tokenizer_; }
  absl::Status Generate(const v1::GenerateRequest& request, absl::Time deadline,
                        const std::shared_ptr<Inbox::Feed>& feed) override;

 private:
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<Calls> calls_ = std::make_shared<Calls>();
};

}  // namespace palimpsest::inference
