#pragma once

#include "common/compaction/cuda/head_facts.h"
#include "common/cuda/launch.h"

// How far a batch of events is from what it replaces, over its reference queries, on a GPU: what
// Measure of matching.cc says. Letters as in head_facts.h. All pointers lead to device memory.
namespace palimpsest::compaction {

struct ErrorBatch {
  const HeadFacts* heads = nullptr;     // [B]
  const float* weights = nullptr;       // [B, n, t]: a for masses, x for outputs
  const double* log_weights = nullptr;  // [B, t] log w; nullptr: w = 1
  const double* fitted = nullptr;       // [B, t, t + d] V' behind column `keep`; nullptr: V
  const float* kept = nullptr;          // [B, t, d] V
  const float* y = nullptr;             // [B, n, d]
  double* errors = nullptr;             // [B]
  int problems = 0, n = 0, t = 0, d = 0;
};
// mean_i |sum_j a_ij w_j - 1|; 0 without queries.
cuda::Launched MassErrors(const ErrorBatch& batch, cuda::Stream stream);
// |X V' - Y| / |Y|, Frobenius. One block of threads per problem.
cuda::Launched OutputErrors(const ErrorBatch& batch, cuda::Stream stream);

}  // namespace palimpsest::compaction
