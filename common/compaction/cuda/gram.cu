#include <cmath>

#include "common/compaction/cuda/gram.h"
#include "common/cuda/device.cuh"

namespace palimpsest::compaction {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kSide = 4;
constexpr int kPitch = kTile + 2;
static_assert(kThreads * kSide * kSide == kTile * kTile);

// kDepth queries of kTile columns of [X | Y], as fp64.
__device__ void Stage(const GramBatch& g, int64_t problem, int query, int column, double* to) {
  for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads) {
    const int q = query + i / kTile, c = column + i % kTile;
    const int64_t row = problem * g.n + q;
    double value = 0;
    if (q < g.heads[problem].queries) {
      if (c < g.t) {
        value = g.x[row * g.t + c];
      } else if (c < g.t + g.c) {
        value = g.y ? g.y[row * g.c + c - g.t] : 1.0f;
      }
    }
    to[i / kTile * kPitch + i % kTile] = value;
  }
}

// Grid: columns of [X | Y], columns of X by kTile; problems. Tiles below the diagonal are the
// mirror of those above it.
__global__ void __launch_bounds__(kThreads) GramKernel(GramBatch g) {
  const int64_t problem = blockIdx.z;
  const int left_column = blockIdx.y * kTile, right_column = blockIdx.x * kTile;
  if (right_column < left_column) return;
  double *left = cuda::SharedMemory<double>(), *right = left + kDepth * kPitch;
  const int row = threadIdx.x / (kTile / kSide) * kSide;
  const int column = threadIdx.x % (kTile / kSide) * kSide;
  double sums[kSide][kSide] = {};
  for (int query = 0; query < g.heads[problem].queries; query += kDepth) {
    __syncthreads();
    Stage(g, problem, query, left_column, left);
    Stage(g, problem, query, right_column, right);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
#pragma unroll
        for (int j = 0; j < kSide; ++j)
          sums[i][j] += left[k * kPitch + row + i] * right[k * kPitch + column + j];
      }
    }
  }
  const int64_t ld = g.t + g.c;
  double* out = g.out + problem * g.t * ld;
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      const int r = left_column + row + i, c = right_column + column + j;
      if (r >= g.t || c >= ld) continue;
      out[r * ld + c] = sums[i][j];
      if (right_column > left_column && c < g.t) out[c * ld + r] = sums[i][j];
    }
  }
}

// Grid: queries by kWarps, problems; a warp per query.
__global__ void __launch_bounds__(kThreads) ReweighKernel(ReweighBatch r) {
  const int64_t problem = blockIdx.y;
  const int query = blockIdx.x * kWarps + threadIdx.x / cuda::kWarp;
  if (query >= r.n) return;
  const int lane = threadIdx.x % cuda::kWarp;
  const bool real = query < r.heads[problem].queries;
  const int keep = real ? r.heads[problem].keep : 0;
  const float* scores = r.scores + (problem * r.n + query) * r.t;
  const double* log_weights = r.log_weights ? r.log_weights + problem * r.t : nullptr;
  const auto shifted = [&](int j) {
    return log_weights ? scores[j] + static_cast<float>(log_weights[j]) : scores[j];
  };
  float* x = r.x + (problem * r.n + query) * r.t;
  float most = -INFINITY, sum = 0;
  for (int j = lane; j < keep; j += cuda::kWarp) most = max(most, shifted(j));
  most = cuda::LaneMax(most);
  for (int j = lane; j < keep; j += cuda::kWarp) sum += expf(shifted(j) - most);
  sum = cuda::LaneSum(sum);
  for (int j = lane; j < r.t; j += cuda::kWarp)
    x[j] = j < keep ? expf(shifted(j) - most) / sum : 0.0f;
}

unsigned Blocks(int count, int of) { return static_cast<unsigned>((count + of - 1) / of); }

}  // namespace

cuda::Launched Gram(const GramBatch& g, cuda::Stream stream) {
  return cuda::Launch(
      GramKernel,
      {.grid = {Blocks(g.t + g.c, kTile), Blocks(g.t, kTile), Blocks(g.problems, 1)},
       .threads = kThreads,
       .shared_bytes = sizeof(double) * 2 * kDepth * kPitch},
      stream, g);
}

cuda::Launched Reweigh(const ReweighBatch& r, cuda::Stream stream) {
  return cuda::Launch(
      ReweighKernel, {.grid = {Blocks(r.n, kWarps), Blocks(r.problems, 1), 1}, .threads = kThreads},
      stream, r);
}

}  // namespace palimpsest::compaction
