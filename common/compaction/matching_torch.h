#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/context/types.h"

// Attention Matching, batched over events, layers and heads (design section 4). Nothing here is
// seen by autograd.
// Letters: B problems (one per event, layer and KV head), w window slots, n reference queries, t
// kept slots, d head width. Ragged sizes are padded to the largest; masks and counts say what is
// real.
namespace palimpsest::compaction {

struct WindowBatch {
  at::Tensor keys;          // [B, w, d]
  at::Tensor values;        // [B, w, d]
  at::Tensor bias;          // [B, w] the slots' beta
  at::Tensor slot_mask;     // [B, w] bool, true = real
  at::Tensor queries;       // [B, n, d] after RoPE
  at::Tensor query_mask;    // [B, n] bool, true = fitted
  at::Tensor holdout_mask;  // [B, n] bool: left out of the fit, reported on; undefined = none
  double scale = 1;         // s = 1/sqrt(d)
  bool measured = true;     // false: the errors of the fit are left undefined
};

// What the window's slots are worth to the queries: local scores and softmax, kept for choice and
// fit.
struct LocalSoftmax {
  at::Tensor
      scores;    // [B, n, w] S_ij = s q_i k_j + b_j, fp32 (fp64 for fp64 input); padded slots -1e30
  at::Tensor a;  // [B, n, w] softmax over the window, 0 at padded slots
};
LocalSoftmax ScoreWindow(const WindowBatch& window);

// Kept slots of each problem: indices into its window, ascending. counts[b] of kept[b] are real.
struct Kept {
  at::Tensor index;         // int64 [B, t], padded with 0
  std::vector<int> counts;  // [B]
};
// What each slot receives at this event, over the fitted queries: mean and maximum of a_ij as they
// are called, their sum for accumulated, sqrt(mean_i a_ij^2) for the others. [B, w] fp64, detached.
at::Tensor Received(const LocalSoftmax& local, const WindowBatch& window, context::Chooser chooser);

// By a chooser that carries nothing (carried.h has the others), keep_counts[b] slots each: the
// largest of what they receive; omp: pursuit on A'A. Not differentiable.
Kept ChooseByAttention(const LocalSoftmax& local, const WindowBatch& window,
                       context::Chooser chooser, const std::vector<int>& keep_counts);

struct Numerics {                       // of each problem: [B], fp64
  at::Tensor mu, lambda, lower, upper;  // lower, upper bound w itself (not its logarithm)
};

// [B] fp64, detached: mean |sum_j a_ij w_j - 1|; |X V' - Y| / |Y| (Frobenius).
struct FitErrors {
  at::Tensor mass_error, output_error;                  // over the queries of query_mask
  at::Tensor holdout_mass_error, holdout_output_error;  // undefined without a holdout
};
struct Fit : FitErrors {
  at::Tensor bias;          // [B, t] fp32 (fp64): b_j + log w_j
  at::Tensor values;        // [B, t, d] in the input's dtype
  at::Tensor kkt_residual;  // [B] fp64, detached, relative to tr(G)/t
};
Fit MatchWindow(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                const Numerics& numerics);

// The total derivative of a loss by what it is fitted from, scores included: new_bias [B, t] and
// new_values [B, t, d] are those by the fit's bias and values. fp32 (fp64 for fp64). Makes the fit
// again; a weight at its bound has no gradient, nor have padding and held-out queries.
struct WindowGradients {
  at::Tensor keys, values, bias, queries;  // shaped as the window's
};
WindowGradients MatchGradients(const WindowBatch& window, const Kept& kept,
                               const Numerics& numerics, const at::Tensor& new_bias,
                               const at::Tensor& new_values);

// The same measures of the kept slots as they are: w = 1, V' = V. Without any kept slot both are 1.
FitErrors MeasureEviction(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept);

// Reference vectors that are not queries: standard normal, keyed by (seed, layer, head, query). [n,
// d] fp32.
at::Tensor RandomReferences(uint64_t seed, int layer, int head, int n, int d);

}  // namespace palimpsest::compaction
