#pragma once

#include "common/attention/packed_batch.h"
#include "common/model/config.h"

// What it costs to learn from a sequence, in rows: for shares of ranks and for micro-batches.
namespace palimpsest::trainer {

// Pairs of a row at positions [begin, end) and a slot that it attends to in a head; between two
// events the slots of a head grow by one a row. Of heads that keep different counts the largest.
double AttentionPairs(const attention::ReplaySequence& sequence, int32_t begin, int32_t end);

// What a pair costs, in rows: of the multiplications in all layers, and in the head.
double PairCost(const model::ModelConfig& config);

struct SequenceCost {
  double prompt = 0;  // which sequences of a group share
  double own = 0;     // of the rows after it
};
SequenceCost CostOf(const attention::ReplaySequence& sequence, double pair_cost);

}  // namespace palimpsest::trainer
