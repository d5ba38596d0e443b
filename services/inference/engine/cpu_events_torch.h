#pragma once

#include <span>

#include "services/inference/engine/kv_pool_torch.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// StepDevice::Solve on the host: side by side, by the same EventWave that replay uses. scale =
// 1/sqrt(d).
void SolveOnHost(KvPool& pool, double scale, int layer, int first_head, int heads,
                 std::span<EventTask> events);

}  // namespace palimpsest::inference
