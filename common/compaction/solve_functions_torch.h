#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace palimpsest::compaction {

// Differentiable solves of many small fp64 systems side by side. Letters: B problems, t unknowns
// padded to the largest; `counts` [B] gives each problem's own number of unknowns, what lies past
// it is ignored and answered with `1` (weights) or 0 (values), with zero gradient.

struct BoxWeights {
  at::Tensor w;             // [B, t]
  at::Tensor kkt_residual;  // [B], as SolveBox
};
// w = argmin 1/2 w'Hw - c'w in [lower, upper]^t.  h [B, t, t], c, lower, upper [B, t] or [B];
// tolerance [B]. Gradient: y_F = H_FF^-1 dw_F on the free weights, dc = y, dH = -y w'; a weight at
// its bound has none.
BoxWeights SolveBoxes(const at::Tensor& h, const at::Tensor& c, const at::Tensor& lower,
                      const at::Tensor& upper, const at::Tensor& tolerance,
                      const std::vector<int>& counts);

// x = A^-1 r.  a [B, t, t], r [B, t, d].  Gradient: y = A^-1 dx, dr = y, dA = -y x'.
at::Tensor SolveSpd(const at::Tensor& a, const at::Tensor& r, const std::vector<int>& counts);

// Forward `value`, gradient to `target` (same shape).
at::Tensor StraightThrough(const at::Tensor& value, const at::Tensor& target);

}  // namespace palimpsest::compaction
