#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "common/model/decoder.h"
#include "services/inference/engine/kv_pool_torch.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Attention of a step on the host. Single rows read the pages where they stand; the rows of a
// longer chunk go through a plan: the live slots before them, and, causally, each other.
class StepAttention final : public model::AttentionContext {
 public:
  // all_single: rows of chunks too, whose sums then do not depend on where a chunk ends.
  StepAttention(KvPool& pool, std::span<const StepRows> sequences, double scale, bool all_single);

  at::Tensor Attend(int layer, const at::Tensor& q_in, const at::Tensor& k_in,
                    const at::Tensor& v_in) override;

 private:
  struct Chunk {
    int64_t begin = 0;
    const StepRows* sequence = nullptr;
  };
  void AttendChunks(int layer, const std::vector<Chunk>& chunks, const at::Tensor& q,
                    const at::Tensor& k, const at::Tensor& v, at::Tensor& o) const;

  KvPool& pool_;
  std::span<const StepRows> sequences_;
  int64_t rows_ = 0;
  double scale_;
  bool all_single_;
};

}  // namespace palimpsest::inference
