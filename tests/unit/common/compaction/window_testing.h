#pragma once

#include <vector>

#include "common/base/random.h"
#include "common/compaction/matching_torch.h"
#include "tests/unit/common/compaction/slow_match.h"

// Ragged problems, padded into one batch as replay does, and each of them alone for the reference.
namespace palimpsest::compaction::testing {

struct Windows {
  WindowBatch batch;  // fp64
  Kept kept;
  Numerics numerics;
  std::vector<SlowProblem> problems;
};

// Standard normal keys, values and queries ("peak" times larger), a third of the queries held out
// when asked to.
SlowProblem RandomProblem(RandomStream& random, int w, int n, int t, int d, double peak,
                          bool holdout = false);

// Padding is filled with rubbish, so that a mask that is forgotten is seen.
Windows Pack(std::vector<SlowProblem> problems);

Windows Cast(const Windows& windows, at::ScalarType dtype);

at::Tensor FromRows(const Matrix& rows);

}  // namespace palimpsest::compaction::testing
