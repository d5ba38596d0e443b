#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/custom_class.h>

#include <span>
#include <utility>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/attention/replay.h"

namespace palimpsest::attention {

// Tensors of one pass that others read, and the gradients that those find.
struct Lent : torch::CustomClassHolder {
  explicit Lent(std::vector<at::Tensor> v) : values(std::move(v)), sums(values.size()) {}
  std::vector<at::Tensor> values;  // constants
  std::vector<at::Tensor> sums;    // fp32 (fp64 for fp64); undefined where nothing was found yet
};

// The values as another pass is to see them: what its backward pass finds is added to the sums.
// `anchor`, a tensor of that pass with a gradient of its own, is replaced by itself: the sums are
// made on the way to it.
std::vector<at::Tensor> Borrow(const c10::intrusive_ptr<Lent>& lent, at::Tensor& anchor);

// A prompt that runs in a pass of its own, its responses in passes after it: what they read of it.
// Once the backward passes of the responses are over that of the prompt hands on the sums.
struct HeldPrompt {
  std::span<const int32_t> tokens;               // [P]
  std::vector<c10::intrusive_ptr<Lent>> layers;  // q [P, H, d], k and v [P, Hk, d]
};

// The pass of the prompt. `batch` has its rows alone, without events, and outlives the pass (and
// its backward) as `held` does.
class HoldingContext final : public model::AttentionContext {
 public:
  HoldingContext(const PackedBatch& batch, const ReplayOptions& options, HeldPrompt& held)
      : replay_(batch, options), held_(held) {}

  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

 private:
  ReplayContext replay_;
  HeldPrompt& held_;
};

}  // namespace palimpsest::attention
