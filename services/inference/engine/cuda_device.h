#pragma once

#include <memory>

#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Does this build know GPUs? A machine without one may check a config. `emulated`: the kernels run
// on the CPU (common/cuda/emulation.h), which tests alone ask for.
absl::Status CheckCuda(bool emulated);

// Steps on a GPU, over the kernels of common/*/cuda. Refuses models that they do not know, naming
// field and value, and says what there is no memory for. The bits of a row hang on its company.
absl::StatusOr<std::unique_ptr<StepDevice>> MakeCudaDevice(
    const std::shared_ptr<const model::Decoder>& decoder, int64_t pages);

}  // namespace palimpsest::inference
