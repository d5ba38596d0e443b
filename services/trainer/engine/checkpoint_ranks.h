#pragma once

#include <optional>
#include <string>

#include "common/collective/collective.h"
#include "services/trainer/engine/checkpoint_folder.h"

// Checkpoints of a model whose parts several ranks hold. All ranks call, all get the same answer.
namespace palimpsest::trainer {

// The checkpoint that trainer.resume names: the newest whole one for -1, else that of the step; as
// rank 0 sees it, the others take its word for what is whole. nullopt: -1, and there is none.
absl::StatusOr<std::optional<FoundCheckpoint>> ResumeTogether(Collective& ranks,
                                                              CheckpointFolder& folder,
                                                              int64_t resume);

}  // namespace palimpsest::trainer
