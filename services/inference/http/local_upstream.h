#pragma once

#include "services/inference/http/upstream.h"
#include "services/inference/server/service.h"

namespace palimpsest::inference {

// The replica of this process: its generations are listened to without a network between.
class LocalUpstream final : public Upstream {
 public:
  // Both outlive it.
  LocalUpstream(InferenceServer& server, const Serving& serving)
      : server_(server), serving_(serving) {}

  absl::StatusOr<Model> model() const override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return serving_.tokenizer(); }
  absl::Status Generate(const v1::GenerateRequest& request, absl::Time deadline,
                        const std::shared_ptr<Inbox::Feed>& feed) override;

 private:
  InferenceServer& server_;
  const Serving& serving_;
};

}  // namespace palimpsest::inference
