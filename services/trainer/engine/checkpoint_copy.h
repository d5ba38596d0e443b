#pragma once

#include <functional>
#include <string>

#include "common/base/status.h"
#include "services/trainer/engine/adamw.h"
#include "services/trainer/engine/model_source.h"

namespace palimpsest::trainer {

// Writes what a rank saves of a checkpoint into its folder. Any thread, once.
using CheckpointPart = std::function<absl::Status(const std::string& folder)>;

// What this rank saves, copied, so that steps may follow: its slices of the optimiser's state, and
// on rank 0 the weights, which must be whole. In float32 3 times the weights' bytes on one rank; on
// N ranks (1 + 2 / N) times on rank 0 and 2 / N on the others; bfloat16 weights have masters: 7
// times, (1 + 6 / N) and 6 / N of the weights' bytes. Throws what torch throws when there is no
// memory.
CheckpointPart CopyToSave(const SourceModel& model, const AdamW& optimizer, int rank, int size);

}  // namespace palimpsest::trainer
