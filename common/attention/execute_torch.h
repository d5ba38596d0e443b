#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "common/attention/plan.h"

namespace palimpsest::attention {

// Letters: T rows, H query heads, Hk KV heads, g = H / Hk, d head width, N slots, C compact slots.

// Where keys stand. Slot i < N is raw row i (bias 0); slot N + c is compact slot c.
struct KeySource {
  at::Tensor k, v;                  // [N, Hk, d]
  at::Tensor k_compact, v_compact;  // [C, Hk, d]; C may be 0
  at::Tensor bias;                  // [C, Hk] fp32 (fp64 for fp64)
};

struct AttentionResult {
  at::Tensor o;    // [T, H, d] in q's dtype
  at::Tensor lse;  // [T, H] fp32 (fp64): log of the sum of exp over all keys of the row
};

// Every part by itself, merged by log-sum-exp: L = logaddexp(L_part), O = sum exp(L_part - L)
// O_part. No autograd.
AttentionResult ExecutePlan(const AttentionPlan& plan, const at::Tensor& q, const KeySource& source,
                            double scale);

// The same with gradients to q, k, v and the compact slots. Backward recomputes each part's scores
// and feeds it the merged O and L: exact for dK, dV and bias; dQ is the sum over the parts.
// Accumulation in fp32 (fp64).
at::Tensor AttendWithGrad(std::shared_ptr<const AttentionPlan> plan, const at::Tensor& q,
                          const KeySource& source, double scale);

}  // namespace palimpsest::attention
