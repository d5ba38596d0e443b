#include "common/rl/advantages.h"

#include <algorithm>
#include <cmath>

namespace palimpsest::rl {

std::vector<double> GroupAdvantages(std::span<const double> rewards, double epsilon) {
  std::vector<double> advantages(rewards.size(), 0.0);
  const bool equal = std::all_of(rewards.begin(), rewards.end(),
                                 [&](double reward) { return reward == rewards.front(); });
  if (equal) return advantages;  // a mean that is rounded must not make them differ
  const double n = static_cast<double>(rewards.size());
  double mean = 0, variance = 0;
  for (double reward : rewards) mean += reward / n;
  for (double reward : rewards) variance += (reward - mean) * (reward - mean) / n;
  for (size_t i = 0; i < rewards.size(); ++i) {
    advantages[i] = (rewards[i] - mean) / (std::sqrt(variance) + epsilon);
  }
  return advantages;
}

}  // namespace palimpsest::rl
