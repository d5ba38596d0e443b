#pragma once

#include "common/compaction/cuda/head_facts.h"
#include "common/cuda/launch.h"

// Products over the queries of a batch of events on a GPU, in fp64, and the weighted softmax
// between the two solves. Letters as in head_facts.h. All pointers lead to device memory.
namespace palimpsest::compaction {

// out [B, t, t + c] = X'X, then X'Y. Rows of x (and y) behind `queries` are zeros, as are columns
// of x behind `keep`.
struct GramBatch {
  const HeadFacts* heads = nullptr;  // [B]
  const float* x = nullptr;          // [B, n, t]
  const float* y = nullptr;          // [B, n, c]; nullptr: a column of ones, c = 1
  double* out = nullptr;
  int problems = 0, n = 0, t = 0, c = 1;
};
cuda::Launched Gram(const GramBatch& batch, cuda::Stream stream);

// x_ij = softmax over the kept j of (scores_ij + log_weights_j); 0 where there is no query or slot.
struct ReweighBatch {
  const HeadFacts* heads = nullptr;     // [B]
  const float* scores = nullptr;        // [B, n, t]
  const double* log_weights = nullptr;  // [B, t]; nullptr: zeros
  float* x = nullptr;                   // [B, n, t]
  int problems = 0, n = 0, t = 0;
};
cuda::Launched Reweigh(const ReweighBatch& batch, cuda::Stream stream);

}  // namespace palimpsest::compaction
