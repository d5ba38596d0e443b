#pragma once

#include <cstdint>

#include "common/cuda/device.cuh"

// Symmetric positive definite systems in fp64, one per block of threads, in global memory: m
// [t, ld] holds the upper triangle of A in its columns [0, t) and right-hand sides in [t, width).
// Columns are taken kPanel rows at a time; a thread owns a column. All threads of the block call
// these; barriers are inside.
// Included by one kernel file: the functions are large and called from several places, so they are
// kept out of line.
namespace palimpsest::compaction {
namespace {

constexpr int kPanel = 16;                           // 32 would not fit into registers
constexpr int kTileDoubles = kPanel * (kPanel + 1);  // shared memory that each function needs

struct System {
  double* m = nullptr;
  int64_t ld = 0;
  int t = 0, width = 0;
  __device__ double& At(int row, int column) const { return m[row * ld + column]; }
};

// tile [kPanel][kPanel + 1] = the square of A that begins at (row, column), `fill` outside of A.
__device__ void StageTile(const System& s, int row, int column, double* tile) {
  for (int i = threadIdx.x; i < kPanel * kPanel; i += blockDim.x) {
    const int r = i / kPanel, c = i % kPanel;
    tile[r * (kPanel + 1) + c] =
        row + r < s.t && column + c < s.t ? s.At(row + r, column + c) : 0.0;
  }
}

// Rows [k0, k0 + kPanel) of the columns from k0 on, less what the rows above explain.
__device__ __noinline__ void UpdatePanel(const System& s, int k0, double* tile) {
  for (int base = k0; base < s.width; base += blockDim.x) {  // alike for all threads
    const int i = base + threadIdx.x;
    double sum[kPanel];
#pragma unroll
    for (int c = 0; c < kPanel; ++c) sum[c] = i < s.width && k0 + c < s.t ? s.At(k0 + c, i) : 0.0;
    for (int p0 = 0; p0 < k0; p0 += kPanel) {
      __syncthreads();
      StageTile(s, p0, k0, tile);
      __syncthreads();
      for (int p = 0; p < kPanel && i < s.width; ++p) {
        const double above = s.At(p0 + p, i);
#pragma unroll
        for (int c = 0; c < kPanel; ++c) sum[c] -= tile[p * (kPanel + 1) + c] * above;
      }
    }
#pragma unroll
    for (int c = 0; c < kPanel; ++c) {
      if (i < s.width && k0 + c < s.t) s.At(k0 + c, i) = sum[c];
    }
  }
}

// The square at (k0, k0) by the first warp, a row of L per lane; it goes to A and, with 1 / pivot
// on the diagonal, to the tile. A pivot that is not above `floor` becomes it.
__device__ __noinline__ void FactorSquare(const System& s, int k0, double floor, double* tile) {
  if (threadIdx.x >= cuda::kWarp) return;
  const int r = threadIdx.x;  // lanes from kPanel on only take part in the shuffles
  double row[kPanel];
#pragma unroll
  for (int c = 0; c < kPanel; ++c)
    row[c] = r < kPanel && k0 + r < s.t && c <= r ? s.At(k0 + c, k0 + r) : (r == c ? 1.0 : 0.0);
#pragma unroll
  for (int k = 0; k < kPanel; ++k) {
    const double diagonal = __shfl_sync(cuda::kAllLanes, row[k], k);
    const double pivot = sqrt(diagonal > floor ? diagonal : floor);
    const double l = r == k ? pivot : row[k] / pivot;
    row[k] = l;
#pragma unroll
    for (int c = k + 1; c < kPanel; ++c) row[c] -= l * __shfl_sync(cuda::kAllLanes, l, c);
  }
#pragma unroll
  for (int c = 0; c < kPanel; ++c) {
    if (r >= kPanel) continue;
    tile[r * (kPanel + 1) + c] = r == c ? 1 / row[c] : row[c];
    if (c <= r && k0 + r < s.t) s.At(k0 + c, k0 + r) = row[c];
  }
}

// Rows [k0, k0 + kPanel) of the columns behind the square, divided by it.
__device__ __noinline__ void DividePanel(const System& s, int k0, const double* tile) {
  for (int i = min(k0 + kPanel, s.t) + threadIdx.x; i < s.width; i += blockDim.x) {
    double x[kPanel];
#pragma unroll
    for (int c = 0; c < kPanel; ++c) {
      double sum = k0 + c < s.t ? s.At(k0 + c, i) : 0.0;
#pragma unroll
      for (int q = 0; q < c; ++q) sum -= tile[c * (kPanel + 1) + q] * x[q];
      x[c] = sum * tile[c * (kPanel + 1) + c];
      if (k0 + c < s.t) s.At(k0 + c, i) = x[c];
    }
  }
}

// A = L L': A's upper triangle becomes L', every right-hand side b becomes L^-1 b.
__device__ void FactorAndForward(const System& s, double floor, double* tile) {
  for (int k0 = 0; k0 < s.t; k0 += kPanel) {
    __syncthreads();
    UpdatePanel(s, k0, tile);
    __syncthreads();
    FactorSquare(s, k0, floor, tile);
    __syncthreads();
    DividePanel(s, k0, tile);
  }
  __syncthreads();
}

// After FactorAndForward: right-hand sides become L'^-1 of what they are; a thread per column.
__device__ __noinline__ void Backward(const System& s, double* tile) {
  const int i = s.t + static_cast<int>(threadIdx.x);
  for (int k0 = (s.t - 1) / kPanel * kPanel; k0 >= 0; k0 -= kPanel) {
    double x[kPanel];
#pragma unroll
    for (int r = 0; r < kPanel; ++r) x[r] = i < s.width && k0 + r < s.t ? s.At(k0 + r, i) : 0.0;
    for (int p0 = k0 + kPanel; p0 < s.t; p0 += kPanel) {
      __syncthreads();
      StageTile(s, k0, p0, tile);
      __syncthreads();
      for (int p = 0; p < kPanel && p0 + p < s.t && i < s.width; ++p) {
        const double below = s.At(p0 + p, i);
#pragma unroll
        for (int r = 0; r < kPanel; ++r) x[r] -= tile[r * (kPanel + 1) + p] * below;
      }
    }
    __syncthreads();
    StageTile(s, k0, k0, tile);
    __syncthreads();
#pragma unroll
    for (int r = kPanel - 1; r >= 0; --r) {
#pragma unroll
      for (int q = r + 1; q < kPanel; ++q) x[r] -= tile[r * (kPanel + 1) + q] * x[q];
      if (k0 + r >= s.t || i >= s.width) continue;
      x[r] /= tile[r * (kPanel + 1) + r];
      s.At(k0 + r, i) = x[r];
    }
  }
  __syncthreads();
}

// The same for the only right-hand side, in column t, by all warps; x [t] in shared memory.
__device__ __noinline__ void BackwardOne(const System& s, double* x) {
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  for (int k0 = (s.t - 1) / kPanel * kPanel; k0 >= 0; k0 -= kPanel) {
    const int end = min(k0 + kPanel, s.t);
    for (int r = k0 + warp; r < end; r += blockDim.x / cuda::kWarp) {
      double sum = 0;
      for (int p = end + lane; p < s.t; p += cuda::kWarp) sum += s.At(r, p) * x[p];
      sum = cuda::LaneSum(sum);
      if (lane == 0) x[r] = s.At(r, s.t) - sum;
    }
    __syncthreads();
    if (warp == 0) {
      const int r = k0 + lane;
      double mine = r < end ? x[r] : 0.0;
      for (int q = end - 1; q >= k0; --q) {
        if (r == q) mine /= s.At(q, q);
        const double solved = __shfl_sync(cuda::kAllLanes, mine, q - k0);
        if (r < q) mine -= s.At(r, q) * solved;
      }
      if (r < end) x[r] = mine;
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace palimpsest::compaction
