#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/weights/manifest.h"
#include "services/trainer/core/step_ledger.h"

namespace palimpsest::trainer {

// What a checkpoint holds besides tensors: `state.json`, written last.
struct CheckpointState {
  int64_t updates = 0;  // of the optimiser; less than the step when steps were skipped
  StepLedger ledger;
  std::vector<weights::ManifestFile> files;  // all others of the folder
};

std::string ToJson(const CheckpointState& state);
// DATA_LOSS for a text that is no such state.
absl::StatusOr<CheckpointState> CheckpointStateFromJson(std::string_view text);

}  // namespace palimpsest::trainer
