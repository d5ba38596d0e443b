#pragma once

#include <vector>

#include "common/model/config.h"
#include "services/trainer/engine/replay_pass.h"

// Which sequences of a batch a rank learns from.
namespace palimpsest::trainer {

// Pairs of a row at positions [begin, end) and a slot that it attends to in a head; between two
// events the slots of a head grow by one a row. Of heads that keep different counts the largest.
double AttentionPairs(const attention::ReplaySequence& sequence, int32_t begin, int32_t end);

// What a pair costs, in rows: of the multiplications in all layers, and in the head.
double PairCost(const model::ModelConfig& config);

// The part of rank `rank` of `size`, balanced by cost (common/rl/split.h), in the order of the
// batch; may be empty. All ranks agree on it without a word.
std::vector<LossSequence> ShareOf(std::vector<LossSequence> sequences,
                                  const model::ModelConfig& config, int rank, int size);

}  // namespace palimpsest::trainer
