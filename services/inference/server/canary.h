#pragma once

#include <optional>

#include "common/weights/store.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// How far what the live weights say of the version's canary prompts is from what its writer says,
// at most over their tokens, in nats; nullopt when it has none. The version is the live one.
absl::StatusOr<std::optional<double>> CanaryError(const weights::VersionInfo& version,
                                                  Engine& engine);

}  // namespace palimpsest::inference
