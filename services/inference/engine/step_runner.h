#pragma once

#include <memory>
#include <span>
#include <vector>

#include "common/model/decoder.h"

namespace palimpsest::inference {

class KvPool;
struct Sequence;

// The rows that one sequence contributes to a step.
struct StepItem {
  Sequence* sequence = nullptr;
  int32_t count = 0;  // of its pending tokens, from the first
};

// One forward pass over the rows of all items: writes their K/V, records reference queries, weighs
// the prompt tokens of those that want it (Sequence::prompt_logprobs), and returns the logits of
// the last row of those items that have no pending token left, in their order: fp32
// [items_with_logits, V], row-major.
struct StepOutput {
  std::vector<int> with_logits;       // indices into items
  std::span<const float> logits;      // [with_logits, V]
  std::shared_ptr<const void> owner;  // of the logits' memory
};
StepOutput RunStep(const model::Decoder& decoder, KvPool& pool, const std::vector<StepItem>& items);

}  // namespace palimpsest::inference
