#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

// What a rollout's reward r_i is measured against: the others of its group, the rollouts of one
// prompt. With n rollouts, their mean reward m and l_i tokens of response,
//   group_std        (r_i - m) / (std + epsilon), population std     GRPO (arXiv:2402.03300, 4.1.2)
//   group_mean       r_i - m                                        Dr.GRPO (arXiv:2503.20783)
//   leave_one_out    r_i - mean of the others = n / (n - 1) (r_i - m)   RLOO (arXiv:2402.14740)
//   length_weighted  r_i - sum_j l_j r_j / sum_j l_j: a baseline per token, not per rollout
enum class AdvantageKind : uint8_t { kGroupStd, kGroupMean, kLeaveOneOut, kLengthWeighted };

struct AdvantageOptions {
  AdvantageKind kind = AdvantageKind::kGroupStd;
  double epsilon = 1e-4;  // of group_std, in units of reward, >= 0
  bool operator==(const AdvantageOptions&) const = default;
};

// rewards: [n], finite; lengths: [n], > 0. Equal rewards give exactly 0, whatever the kind.
std::vector<double> GroupAdvantages(const AdvantageOptions& options,
                                    std::span<const double> rewards,
                                    std::span<const int64_t> lengths);

// Are all the same? Then nothing is learnt from them.
bool AllEqual(std::span<const double> rewards);

// DAPO's soft punishment of responses that are too long (arXiv:2503.14476, eq. 13): 0 up to `limit`
// - `stretch` tokens, then falling in a line to -`penalty` at `limit`, and no further.
struct OverlongOptions {
  int32_t limit = 0;    // tokens of a response; 0: off
  int32_t stretch = 0;  // 1 to limit; 0 when off
  double penalty = 1;   // > 0, in units of reward
  bool operator==(const OverlongOptions&) const = default;
};
absl::Status Validate(const OverlongOptions& options);

// What is added to the reward of a response of `length` tokens; <= 0.
double OverlongPenalty(const OverlongOptions& options, int64_t length);

}  // namespace palimpsest::rl
