#pragma once

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// Fills `batch` with the demonstrations of step `stage_step` (from 0) of a stage: a pure function
// of (run seed, stage, step), so that the same batch can be made again. The response is learnt; the
// model's stop id ends it where no stop string does.
absl::Status BuildDemonstrations(const Workplace& place, const SftConfig& stage, int64_t stage_step,
                                 TrainBatch& batch);

}  // namespace palimpsest::orchestrator
