#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/rl/rollout.h"

namespace palimpsest::rl {

// What a trainer's replay made of a rollout: the log-probabilities of its sampled tokens once more,
// by the weights that it was trained with, before they moved.
struct Replayed {
  std::string id;               // of the rollout
  std::vector<float> logprobs;  // of the sampled tokens, in their order; nats. Not finite where the
                                // weights were not
  bool operator==(const Replayed&) const = default;
};

int64_t SampledTokens(const Rollout& rollout);

// `of_sampled` by position, as Rollout::logprobs: [tokens], 0 where nothing was sampled. DATA_LOSS
// when there is not one for each sampled token.
absl::StatusOr<std::vector<float>> ByPosition(const Rollout& rollout,
                                              std::span<const float> of_sampled);

}  // namespace palimpsest::rl
