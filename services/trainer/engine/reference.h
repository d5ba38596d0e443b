#pragma once

#include <memory>

#include "common/base/status.h"
#include "common/model/decoder.h"
#include "services/trainer/engine/options.h"

namespace palimpsest::trainer {

// The model that the policy is held near to: options.reference_folder, or else the one that the run
// started from. Its weights never change. FAILED_PRECONDITION when logs of the trained model would
// not fit it.
absl::StatusOr<std::unique_ptr<model::Decoder>> LoadReference(const EngineOptions& options,
                                                              const model::ModelConfig& trained);

}  // namespace palimpsest::trainer
