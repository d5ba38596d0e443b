#pragma once

#include "services/orchestrator/engine/training.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// Learns from demonstrations until the stage's bound, loss or gate is reached. Goes on where the
// ledger says it was. Owner: the loop's thread.
absl::Status RunSftStage(Workplace& place, Training& training, const SftConfig& stage);

}  // namespace palimpsest::orchestrator
