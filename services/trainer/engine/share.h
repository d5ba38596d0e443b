#pragma once

#include <vector>

#include "common/model/config.h"
#include "services/trainer/engine/replay_pass.h"

// Which sequences of a batch a rank learns from.
namespace palimpsest::trainer {

// The part of rank `rank` of `size`, balanced by cost (common/rl/split.h), in the order of the
// batch; may be empty. All ranks agree on it without a word.
std::vector<LossSequence> ShareOf(std::vector<LossSequence> sequences,
                                  const model::ModelConfig& config, int rank, int size);

}  // namespace palimpsest::trainer
