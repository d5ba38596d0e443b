#include "common/rl/replayed.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {

int64_t SampledTokens(const Rollout& rollout) {
  return std::count(rollout.origins.begin(), rollout.origins.end(), Origin::kSampled);
}

absl::StatusOr<std::vector<float>> ByPosition(const Rollout& rollout,
                                              std::span<const float> of_sampled) {
  if (std::ssize(of_sampled) != SampledTokens(rollout)) {
    return absl::DataLossError(
        absl::StrFormat("%s: %d replayed log-probabilities for %d sampled tokens", rollout.id,
                        of_sampled.size(), SampledTokens(rollout)));
  }
  std::vector<float> all(rollout.origins.size(), 0);
  auto next = of_sampled.begin();
  for (size_t i = 0; i < all.size(); ++i) {
    if (rollout.origins[i] == Origin::kSampled) all[i] = *next++;
  }
  return all;
}

}  // namespace palimpsest::rl
