#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

struct Sequence;

// The rows that one sequence contributes to a step.
struct StepItem {
  Sequence* sequence = nullptr;
  int32_t count = 0;  // of its pending tokens, from the first
};

// One forward pass over the rows of all items: writes their K/V, records reference queries, weighs
// the prompt tokens of those that want it (Sequence::prompt_logprobs), and returns the logits of
// the last row of those items that have no pending token left, in their order.
struct StepOutput {
  std::vector<int> with_logits;   // indices into items
  std::span<const float> logits;  // fp32 [with_logits, V]; until the device is called again
};
StepOutput RunStep(StepDevice& device, const std::vector<StepItem>& items);

}  // namespace palimpsest::inference
