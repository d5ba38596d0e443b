#pragma once

#include <span>

#include "services/inference/engine/kv_pool_torch.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Roundings of events that are solved side by side hang on each other, as they are padded to the
// largest. kNone: each head of each event by itself, on one thread.
enum class EventCompany { kAny, kNone };

// StepDevice::Solve on the host, by the same EventWave that replay uses. scale = 1/sqrt(d).
void SolveOnHost(KvPool& pool, double scale, int layer, int first_head, int heads,
                 std::span<EventTask> events, EventCompany company);

}  // namespace palimpsest::inference
