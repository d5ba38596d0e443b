#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "common/model/decoder.h"

namespace palimpsest::model {

inline constexpr int64_t kCompareChunkRows = 512;

// Of each row, p its distribution over the vocabulary and q that of the other row beside it. [N]
// each, fp32 (fp64 when the model is).
struct RowDivergence {
  at::Tensor to_other;    // KL(p || q), nats
  at::Tensor from_other;  // KL(q || p), nats
  at::Tensor acceptance;  // sum over the vocabulary of min(p, q), in [0, 1]; no gradient
};

// Compares what the head makes of hidden rows [N, D] and of others [N, D], softmax(logits /
// temperature). temperature > 0.
//
// Differentiable in the hidden rows, and in the head weight as far as it makes p of them: q is a
// constant, whatever stands behind the other rows. Rows of V numbers live for `chunk_rows` rows at
// a time, six such buffers; backward computes them again instead of keeping them.
RowDivergence CompareRows(const Decoder& decoder, const at::Tensor& hidden, const at::Tensor& other,
                          double temperature, int64_t chunk_rows = kCompareChunkRows);

}  // namespace palimpsest::model
