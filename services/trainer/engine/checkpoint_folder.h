#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/base/status.h"
#include "services/trainer/engine/checkpoint_state.h"

namespace palimpsest::trainer {

// Checkpoints of a run: `<root>/step-00000012/`, each whole or not at all. One writer.

// `fill` writes plain files into an empty folder; state.json with their digests and its own seal
// follow, and the folder gets its name by a rename when everything is on disk. A broken folder of
// the same step is replaced. Then all but the newest `keep` are deleted.
absl::Status WriteCheckpoint(const std::string& root, CheckpointState state, int keep,
                             const std::function<absl::Status(const std::string& folder)>& fill);

struct FoundCheckpoint {
  std::string folder;
  CheckpointState state;
};
// The newest one whose files are what was written; those that are not are told in the log and
// passed over. nullopt: there is none. DATA_LOSS: there are some, all broken.
absl::StatusOr<std::optional<FoundCheckpoint>> NewestCheckpoint(const std::string& root);

// A number that rises with each call over all lives of the run, from 0; kept in `<root>/attempt`.
absl::StatusOr<int64_t> NextAttempt(const std::string& root);

}  // namespace palimpsest::trainer
