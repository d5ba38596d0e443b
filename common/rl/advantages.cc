#include "common/rl/advantages.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

// What is subtracted from each reward of a group.
double Baseline(AdvantageKind kind, std::span<const double> rewards,
                std::span<const int64_t> lengths) {
  const double n = static_cast<double>(rewards.size());
  double mean = 0, weighted = 0, tokens = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    mean += rewards[i] / n;
    weighted += static_cast<double>(lengths[i]) * rewards[i];
    tokens += static_cast<double>(lengths[i]);
  }
  return kind == AdvantageKind::kLengthWeighted ? weighted / tokens : mean;
}

// What the difference is divided by.
double Spread(const AdvantageOptions& options, std::span<const double> rewards, double mean) {
  const double n = static_cast<double>(rewards.size());
  if (options.kind == AdvantageKind::kLeaveOneOut) return (n - 1) / n;
  if (options.kind != AdvantageKind::kGroupStd) return 1;
  double variance = 0;
  for (double reward : rewards) variance += (reward - mean) * (reward - mean) / n;
  return std::sqrt(variance) + options.epsilon;
}

}  // namespace

bool AllEqual(std::span<const double> rewards) {
  return std::all_of(rewards.begin(), rewards.end(),
                     [&](double reward) { return reward == rewards.front(); });
}

std::vector<double> GroupAdvantages(const AdvantageOptions& options,
                                    std::span<const double> rewards,
                                    std::span<const int64_t> lengths) {
  std::vector<double> advantages(rewards.size(), 0.0);
  if (AllEqual(rewards)) return advantages;  // a mean that is rounded must not make them differ
  const double baseline = Baseline(options.kind, rewards, lengths);
  const double spread = Spread(options, rewards, baseline);
  for (size_t i = 0; i < rewards.size(); ++i) advantages[i] = (rewards[i] - baseline) / spread;
  return advantages;
}

absl::Status Validate(const OverlongOptions& o) {
  if (o.limit < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("limit=%d is not >= 0", o.limit));
  }
  if (o.limit == 0 ? o.stretch != 0 : (o.stretch < 1 || o.stretch > o.limit)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("stretch=%d: it is in [1, limit] with a limit and 0 without; limit=%d",
                        o.stretch, o.limit));
  }
  if (!(o.penalty > 0 && std::isfinite(o.penalty))) {
    return absl::InvalidArgumentError(absl::StrFormat("penalty=%g is not > 0", o.penalty));
  }
  return absl::OkStatus();
}

double OverlongPenalty(const OverlongOptions& options, int64_t length) {
  if (options.limit == 0) return 0;
  const int64_t over = length - (options.limit - options.stretch);
  const double part = static_cast<double>(over) / static_cast<double>(options.stretch);
  return -options.penalty * std::clamp(part, 0.0, 1.0);
}

}  // namespace palimpsest::rl
