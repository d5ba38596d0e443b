#pragma once

#include <span>
#include <vector>

namespace palimpsest::rl {

// Group-relative advantages (GRPO; Shao et al., 2024, eq. 3 of outcome supervision): with mean and
// population standard deviation over the rollouts of one prompt,
//   A_i = (r_i - mean) / (std + epsilon).
// Equal rewards give exactly 0, whatever epsilon. Rewards are finite; epsilon >= 0.
std::vector<double> GroupAdvantages(std::span<const double> rewards, double epsilon = 1e-4);

}  // namespace palimpsest::rl
