#pragma once

#include <ATen/core/Tensor.h>

namespace palimpsest::attention {

// Rows gathered from two stacked sources: index i < Na is row i of `a` [Na, c], else row i - Na of
// `b` [Nb, c]; -1 is a row of zeros. index: int64 of any shape. Result [index..., c] in a's dtype.
at::Tensor GatherRows(const at::Tensor& a, const at::Tensor& b, const at::Tensor& index);

// The same with gradients to both sources, scatter-added in fp32 (fp64 for fp64), in a fixed order.
at::Tensor GatherRowsWithGrad(const at::Tensor& a, const at::Tensor& b, const at::Tensor& index);

// Adds rows [n, c] to rows of the two targets (contiguous, same dtype as `rows`: fp32 or fp64).
// Deterministic: each target row is summed in the order of `index`.
void ScatterAddRows(const at::Tensor& rows, const at::Tensor& index, at::Tensor& a, at::Tensor& b);

// fp32 for fp32 and bf16, fp64 for fp64.
at::Tensor Wide(const at::Tensor& x);

}  // namespace palimpsest::attention
