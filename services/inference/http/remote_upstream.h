#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "palimpsest/v1/inference.grpc.pb.h"
#include "services/inference/http/upstream.h"

namespace palimpsest::inference {

// What speaks InferenceService at the other end of a channel: a router, and behind it its fleet.
class RemoteUpstream final : public Upstream {
 public:
  RemoteUpstream(const std::shared_ptr<grpc::Channel>& channel,
                 std::shared_ptr<const Tokenizer> tokenizer)
      : stub_(v1::InferenceService::NewStub(channel)), tokenizer_(std::move(tokenizer)) {}

  absl::StatusOr<Model> model() const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return tokenizer_; }
  absl::Status Generate(const v1::GenerateRequest& request, absl::Time deadline,
                        const std::shared_ptr<Inbox::Feed>& feed) override;

 private:
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace palimpsest::inference
