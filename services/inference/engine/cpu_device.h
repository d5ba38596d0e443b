#pragma once

#include <memory>

#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Steps on this machine's processors: weights, pages and rings in host memory. With kFixed kernels
// of the decoder the same rows and events give the same bits in any company.
std::unique_ptr<StepDevice> MakeCpuDevice(std::shared_ptr<const model::Decoder> decoder,
                                          int64_t pages);

}  // namespace palimpsest::inference
