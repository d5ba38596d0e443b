#include "common/rl/policy_loss.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {

absl::Status Validate(const PolicyLossOptions& o) {
  if (!(o.clip_low >= 0 && o.clip_low < 1)) {
    return absl::InvalidArgumentError(absl::StrFormat("clip_low=%g is not in [0, 1)", o.clip_low));
  }
  if (!(o.clip_high >= 0 && std::isfinite(o.clip_high))) {
    return absl::InvalidArgumentError(absl::StrFormat("clip_high=%g is not >= 0", o.clip_high));
  }
  if (!(o.truncate_ratio >= 1 + o.clip_high && std::isfinite(o.truncate_ratio))) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "truncate_ratio=%g is less than 1 + clip_high=%g", o.truncate_ratio, o.clip_high));
  }
  return absl::OkStatus();
}

void RatioSums::Add(const RatioSums& other) {
  tokens += other.tokens;
  ratio += other.ratio;
  squared_ratio += other.squared_ratio;
  max_ratio = std::max(max_ratio, other.max_ratio);
  clipped += other.clipped;
  truncated += other.truncated;
}

double RatioSums::EffectiveShare() const {
  return squared_ratio > 0 ? ratio * ratio / (static_cast<double>(tokens) * squared_ratio) : 0;
}

PolicyLossResult PolicyLoss(const PolicyLossOptions& options, std::span<const double> logprobs,
                            std::span<const double> recorded, std::span<const double> advantages,
                            std::span<const double> weights) {
  PolicyLossResult result;
  result.gradient.resize(logprobs.size(), 0.0);
  result.sums.tokens = static_cast<int64_t>(logprobs.size());
  for (size_t t = 0; t < logprobs.size(); ++t) {
    const double ratio = std::exp(logprobs[t] - recorded[t]);
    const double push = weights[t] * advantages[t];
    const bool too_high = advantages[t] > 0 && ratio > 1 + options.clip_high;
    const bool too_low = advantages[t] < 0 && ratio < 1 - options.clip_low;
    if (too_high || too_low) {
      result.loss -= push * (too_high ? 1 + options.clip_high : 1 - options.clip_low);
      ++result.sums.clipped;
    } else {
      const double factor = std::min(ratio, options.truncate_ratio);
      result.loss -= push * factor;
      result.gradient[t] = -push * factor;
    }
    result.sums.ratio += ratio;
    result.sums.squared_ratio += ratio * ratio;
    result.sums.max_ratio = std::max(result.sums.max_ratio, ratio);
    if (ratio > options.truncate_ratio) ++result.sums.truncated;
  }
  return result;
}

}  // namespace palimpsest::rl
