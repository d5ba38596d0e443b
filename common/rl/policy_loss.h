#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

// The clipped surrogate of PPO (Schulman et al., 2017) on tokens, as GRPO uses it, with truncated
// importance weights (Ionides, 2008). One update is made per batch, so the policy that a ratio is
// taken against is the one that sampled: its recorded log-probabilities, whatever version it was.
//
// Of token t, n = log-probability under the present weights, o = recorded, A its advantage:
//   r = exp(n - o)
//   clipped:   A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low
//   loss_t   = -w A clip(r, 1 - clip_low, 1 + clip_high)   when clipped; no gradient
//            = -w A c, c = min(r, truncate_ratio)          else; d loss_t / d n = -w A c
// c is a constant factor of the gradient of n: past the cap (only A < 0 gets there) the token still
// pushes, with a bounded weight. The batch's loss is the sum over its tokens; the token weights w
// are of the whole batch (weight of the item / loss tokens of the batch for the token mean), so how
// the batch is cut into micro-batches changes nothing.
struct PolicyLossOptions {
  double clip_low = 0.2;      // [0, 1)
  double clip_high = 0.2;     // >= 0
  double truncate_ratio = 5;  // >= 1 + clip_high
  bool operator==(const PolicyLossOptions&) const = default;
};
absl::Status Validate(const PolicyLossOptions& options);

// Sums over tokens, so that those of micro-batches add up.
struct RatioSums {
  int64_t tokens = 0;
  double ratio = 0, squared_ratio = 0;  // sum r, sum r^2
  double max_ratio = 0;
  int64_t clipped = 0;
  int64_t truncated = 0;  // r > truncate_ratio
  void Add(const RatioSums& other);
  // (sum r)^2 / (tokens * sum r^2): share of the tokens that the weighted batch is worth, [0, 1].
  double EffectiveShare() const;
};

struct PolicyLossResult {
  double loss = 0;
  std::vector<double> gradient;  // [tokens] d loss / d logprob
  RatioSums sums;
};

// All spans have one length. logprobs: now; recorded: when sampled; nats.
PolicyLossResult PolicyLoss(const PolicyLossOptions& options, std::span<const double> logprobs,
                            std::span<const double> recorded, std::span<const double> advantages,
                            std::span<const double> weights);

}  // namespace palimpsest::rl
