#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/rl/replayed.h"
#include "services/trainer/core/batch.h"
#include "services/trainer/engine/replay_pass.h"

namespace palimpsest::trainer {

// Log-probability of one loss token. Plain, so that ranks can exchange them.
struct ReplayedToken {
  int32_t item = 0;  // LossSequence::item
  float logprob = 0;
};

// What the passes of a step made of the rollouts, token by token. Those of one rollout are of one
// pass, and in its order.
class ReplayedTokens {
 public:
  void Add(const PassTokens& pass) {
    for (size_t i = 0; i < pass.tokens.size(); ++i) {
      tokens_.push_back({pass.tokens[i].sequence->item, static_cast<float>(pass.logprobs[i])});
    }
  }
  void Add(std::span<const ReplayedToken> others) {
    tokens_.insert(tokens_.end(), others.begin(), others.end());
  }
  std::span<const ReplayedToken> tokens() const { return tokens_; }

  // By rollout, in the order of the batch; those without a token are left out.
  std::vector<rl::Replayed> Of(const std::vector<RlItem>& items) const {
    std::vector<rl::Replayed> all(items.size());
    for (const ReplayedToken& token : tokens_) {
      all[static_cast<size_t>(token.item)].logprobs.push_back(token.logprob);
    }
    for (size_t i = 0; i < items.size(); ++i) all[i].id = items[i].rollout.id;
    std::erase_if(all, [](const rl::Replayed& replayed) { return replayed.logprobs.empty(); });
    return all;
  }

 private:
  std::vector<ReplayedToken> tokens_;
};

}  // namespace palimpsest::trainer
