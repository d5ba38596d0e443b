#pragma once

#include "common/compaction/cuda/head_facts.h"
#include "common/cuda/launch.h"

// The two solves of a batch of events on a GPU, fp64, a block of threads per problem: the twins of
// SolveBox and SolveInPlace. All pointers lead to device memory.
namespace palimpsest::compaction {

inline constexpr int kMostKept = 1024;
inline constexpr int kMostHeadWidth = 256;

// Doubles of one problem's system: a matrix and d right-hand sides.
constexpr int64_t SystemDoubles(int t, int d) { return int64_t{t} * (t + d); }

// w = argmin |A w - 1|^2 + mu |w - 1|^2 in the bounds; mu relative to the mean diagonal of A'A.
struct WeightBatch {
  const HeadFacts* heads = nullptr;  // [B]
  const double* gram = nullptr;      // [B, t, t + 1] A'A, then A'1
  double* scratch = nullptr;         // [B, SystemDoubles(t, 1)]
  double* log_weights = nullptr;     // [B, t] log w; 0 behind `keep`
  double* kkt_residuals = nullptr;   // [B] relative to the mean diagonal of A'A
  int32_t* solves = nullptr;         // [B] systems that were solved
  int problems = 0, t = 0;           // t <= kMostKept
};
cuda::Launched SolveWeights(const WeightBatch& batch, cuda::Stream stream);

// V' = argmin |X V' - Y|^2 + lambda |V' - V|^2; lambda relative to the mean diagonal of X'X.
struct ValueBatch {
  const HeadFacts* heads = nullptr;  // [B]
  // [B, t, t + d] X'X, then X'Y; V' takes its place, behind column `keep` of each problem.
  double* gram = nullptr;
  const float* kept = nullptr;     // [B, t, d] V
  int problems = 0, t = 0, d = 0;  // t <= kMostKept, d <= kMostHeadWidth
};
cuda::Launched SolveValues(const ValueBatch& batch, cuda::Stream stream);

}  // namespace palimpsest::compaction
