#pragma once

#include <cstdint>

#include "common/attention/plan.h"
#include "common/base/bfloat16.h"

// The CPU kernel of a plan: one segment of one KV head at a time, everything between gather and
// merge in cache. No torch. Letters: T rows, H query heads, Hk KV heads, g = H / Hk, d head width,
// N raw slots, C compact slots.
namespace palimpsest::attention {

// Stored: float, double or BFloat16; Real: float, or double for double. All arrays row-major and
// contiguous.
template <class Stored, class Real>
struct KernelOperands {
  const Stored* q = nullptr;  // [T, H, d]
  const Stored* k = nullptr;  // [N, Hk, d]
  const Stored* v = nullptr;
  const Stored* k_compact = nullptr;  // [C, Hk, d]
  const Stored* v_compact = nullptr;
  const Real* bias = nullptr;  // [C, Hk]
  int64_t raw_slots = 0;       // N
  int heads = 0, kv_heads = 0, d = 0;
  Real scale = 1;
};

// Attention of segment `s` of `group` under KV head `h`, merged into o [T, H, d] and lse [T, H]
// (which begin at 0 and -inf):
//   L = logaddexp(L_old, L_part),  O = e^(L_old - L) O_old + e^(L_part - L) O_part.
// Calls for different (s, h) of one group may run side by side.
template <class Stored, class Real>
void ForwardSegment(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                    int h, Real* o, Real* lse);

// Adds this segment's share of the gradients, from the merged lse and delta = sum(dO * O), both [T,
// H]:
//   P = e^(S - L), dV = P'dO, dS = P (dO V' - delta), dQ = scale dS K, dK = scale dS'Q, dbias = sum
//   of dS over rows.
// Calls for different h may run side by side; calls for one h may not.
template <class Real>
struct KernelGradients {
  Real *q, *k, *v, *k_compact, *v_compact, *bias;  // shapes as the operands
};
template <class Stored, class Real>
void BackwardSegment(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                     int h, const Real* d_o, const Real* lse, const Real* delta,
                     const KernelGradients<Real>& out);

}  // namespace palimpsest::attention
