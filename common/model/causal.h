#pragma once

#include <cstdint>
#include <vector>

#include "common/model/decoder.h"

namespace palimpsest::model {

// Plain causal attention over packed sequences: row i sees the rows of its own sequence up to i.
// Slow and simple, one matrix per sequence, scores and softmax in fp32 (fp64 when the model is):
// the reference for tests. Differentiable. Keeps nothing between passes.
class CausalContext final : public AttentionContext {
 public:
  // Lengths of the sequences in the order of their rows; the sum must be T.
  explicit CausalContext(std::vector<int64_t> lengths) : lengths_(std::move(lengths)) {}
  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

 private:
  std::vector<int64_t> lengths_;
};

}  // namespace palimpsest::model
