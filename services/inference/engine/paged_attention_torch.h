#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "services/inference/engine/kv_pool_torch.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// One query row and what it sees: per KV head the slots that its sequence had before the step, and
// of those that the step adds the first `seen_after` (its own last).
struct SingleRow {
  int64_t row = 0;  // of q
  const StepRows* sequence = nullptr;
  int32_t seen_after = 1;
};

// o rows of `rows` from q [T, H, d] (contiguous, the pool's dtype). A row's result depends on
// nothing but its own query and slots: neither on the other rows nor on the number of threads.
void AttendRows(const KvPool& pool, int layer, const std::vector<SingleRow>& rows,
                const at::Tensor& q, double scale, at::Tensor& o);

}  // namespace palimpsest::inference
