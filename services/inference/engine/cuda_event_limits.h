#pragma once

#include "common/attention/packed_batch.h"
#include "common/base/status.h"
#include "common/context/policy.h"

// What the kernels of events do not know, and how large a window they take. INVALID_ARGUMENT naming
// field and value.
namespace palimpsest::inference {

// As StepDevice::CheckPolicy: of kv_budget and segments, whose windows are as wide as they say.
absl::Status CheckDevicePolicy(const context::ContextPolicy& policy);
// As StepDevice::CheckForced.
absl::Status CheckDeviceForced(const context::Event& event);

// A head of an event that falls due, with as many slots in its window, of which `kept` stay: is it
// fitted, is it ranked?
absl::Status CheckDeviceWindow(const attention::ReplayEvent& request, bool fitted, bool ranked,
                               int width, int kept);

}  // namespace palimpsest::inference
