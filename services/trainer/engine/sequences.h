#pragma once

#include <optional>
#include <span>
#include <vector>

#include "common/context/types.h"
#include "common/model/config.h"
#include "services/trainer/core/batch.h"
#include "services/trainer/engine/replay_pass.h"

// Items of a batch as sequences to replay. Weights are those of the items, not yet divided by the
// batch's loss tokens. Views into the items.
namespace palimpsest::trainer {

// Of an admitted rollout. Only sampled tokens carry loss; the last token is never a row.
LossSequence SequenceOf(const RlItem& item);

// Of an admitted demonstration, its events drafted from its policy; INVALID_ARGUMENT when the
// policy does not work for it.
absl::StatusOr<LossSequence> SequenceOf(const SftItem& item, context::Shape shape);

// Of each sequence the group whose prompt's rows it shares, from 0 in the order of the batch.
std::vector<int64_t> PromptGroups(const std::vector<LossSequence>& sequences);

struct MicroBatch {
  std::vector<const LossSequence*> sequences;
  // The first sequence of the group that is too large for a micro-batch and has a piece here; null:
  // all groups are whole, or share no prompt. Pieces of one group come one after another.
  const LossSequence* cut = nullptr;
};
using MicroBatches = std::vector<MicroBatch>;
// How many of the first are pieces of one group.
size_t PiecesInFront(std::span<const MicroBatch> micro_batches);

// Sequences cut into micro-batches of at most `max_rows` rows, balanced by cost
// (common/rl/packing.h); prompts that can be shared are counted once.
absl::StatusOr<MicroBatches> Pack(const std::vector<LossSequence>& sequences,
                                  const model::ModelConfig& config, int64_t max_rows);

}  // namespace palimpsest::trainer
