#pragma once

#include <functional>
#include <optional>
#include <string>

#include "common/collective/collective.h"
#include "services/trainer/engine/checkpoint_folder.h"

// Checkpoints of a model whose parts several ranks hold. All ranks call, all get the same answer.
namespace palimpsest::trainer {

// WriteCheckpoint by rank 0, the state and its digests last; `fill` is called on every rank with
// the same folder, at the same time. The files of the ranks have names of their own.
absl::Status WriteCheckpointTogether(Collective& ranks, const std::string& root,
                                     CheckpointState state, int keep,
                                     const std::function<absl::Status(const std::string&)>& fill);

// NewestCheckpoint as rank 0 sees it; the others take its word for what is whole.
absl::StatusOr<std::optional<FoundCheckpoint>> NewestCheckpointTogether(Collective& ranks,
                                                                        const std::string& root);

}  // namespace palimpsest::trainer
