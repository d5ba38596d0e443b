#include <cmath>

#include "common/compaction/cuda/windows.h"
#include "common/cuda/device.cuh"

namespace palimpsest::compaction {
namespace {

using cuda::Chunk;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kTile = 64;   // rows and columns of a product's tile
constexpr int kDepth = 16;  // of the inner dimension at a time
constexpr int kSide = 4;    // rows and columns of a tile that a thread holds
constexpr int kPitch = kTile + 4;
constexpr size_t kTileBytes = sizeof(float) * 2 * kDepth * kPitch;
static_assert(kThreads * kSide * kSide == kTile * kTile);

template <class Stored>
__device__ int64_t PoolRow(const DeviceWindows<Stored>& x, const WindowHead<Stored>& head,
                           int slot) {
  const int at = head.first + slot;
  return int64_t{head.table[at / x.page_slots]} * x.page_slots + at % x.page_slots;
}

__device__ float Softmax(float score, const float* stats) {
  return expf(score - stats[0]) / stats[1];
}

// sums += left' right of one depth step: left, right [kDepth][kPitch] in shared memory.
__device__ void MultiplyTile(const float* left, const float* right, float (&sums)[kSide][kSide]) {
  const int row = threadIdx.x / (kTile / kSide) * kSide;
  const int column = threadIdx.x % (kTile / kSide) * kSide;
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    const Chunk<float> a = cuda::LoadChunk(left + k * kPitch + row);
    const Chunk<float> b = cuda::LoadChunk(right + k * kPitch + column);
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
#pragma unroll
      for (int j = 0; j < kSide; ++j) sums[i][j] = fmaf(a.x[i], b.x[j], sums[i][j]);
    }
  }
}

// The 16 channels from c0 on of kTile rows, turned: to [kDepth][kPitch]. row(i) is where row i
// begins, nullptr: zeros.
template <class Stored, class Row>
__device__ void StageChannels(int c0, const Row& row, float* to) {
  constexpr int kCount = Chunk<Stored>::kCount;
  for (int i = threadIdx.x; i < kTile * kDepth / kCount; i += kThreads) {
    const int r = i / (kDepth / kCount), c = i % (kDepth / kCount) * kCount;
    const Stored* from = row(r);
    Chunk<Stored> chunk = {};
    if (from) chunk = cuda::LoadChunk(from + c0 + c);
#pragma unroll
    for (int j = 0; j < kCount; ++j) to[(c + j) * kPitch + r] = cuda::Wide(chunk.x[j]);
  }
}

// Grid: slots, queries by kTile; problems.
template <class Stored>
__global__ void __launch_bounds__(kThreads) ScoreKernel(DeviceWindows<Stored> x, float* scores) {
  const int64_t problem = blockIdx.z;
  const HeadFacts& facts = x.heads[problem];
  const WindowHead<Stored>& head = x.windows[problem];
  const int query = blockIdx.y * kTile, slot = blockIdx.x * kTile;
  if (query >= facts.queries || slot >= facts.width) return;
  float *left = cuda::SharedMemory<float>(), *right = left + kDepth * kPitch;
  float sums[kSide][kSide] = {};
  for (int c0 = 0; c0 < x.d; c0 += kDepth) {
    __syncthreads();
    StageChannels<Stored>(
        c0,
        [&](int r) -> const Stored* {
          const int i = query + r;
          if (i >= facts.queries) return nullptr;
          return head.q + i / x.group * x.position_stride + i % x.group * x.d;
        },
        left);
    StageChannels<Stored>(
        c0,
        [&](int r) -> const Stored* {
          if (slot + r >= facts.width) return nullptr;
          return head.k + PoolRow(x, head, slot + r) * x.slot_stride;
        },
        right);
    __syncthreads();
    MultiplyTile(left, right, sums);
  }
  const int row = threadIdx.x / (kTile / kSide) * kSide;
  const int column = threadIdx.x % (kTile / kSide) * kSide;
#pragma unroll
  for (int j = 0; j < kSide; ++j) {
    const int s = slot + column + j;
    if (s >= facts.width) continue;
    const float bias = head.bias[PoolRow(x, head, s) * x.bias_stride];
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const int q = query + row + i;
      if (q < facts.queries)
        scores[(problem * x.n + q) * x.w + s] = fmaf(x.scale, sums[i][j], bias);
    }
  }
}

// Grid: queries by kWarps, problems; a warp per query.
__global__ void __launch_bounds__(kThreads)
    NormaliseKernel(const HeadFacts* heads, int n, int w, const float* scores, float* stats) {
  const int64_t problem = blockIdx.y;
  const int query = blockIdx.x * kWarps + threadIdx.x / cuda::kWarp;
  const int lane = threadIdx.x % cuda::kWarp, width = heads[problem].width;
  if (query >= heads[problem].queries) return;
  const float* row = scores + (problem * n + query) * w;
  float most = -INFINITY, sum = 0;
  for (int j = lane; j < width; j += cuda::kWarp) most = max(most, row[j]);
  most = cuda::LaneMax(most);
  for (int j = lane; j < width; j += cuda::kWarp) sum += expf(row[j] - most);
  sum = cuda::LaneSum(sum);
  if (lane > 0) return;
  stats[(problem * n + query) * 2] = most;
  stats[(problem * n + query) * 2 + 1] = sum;
}

// Grid: slots by kThreads, problems; a thread per slot.
__global__ void __launch_bounds__(kThreads)
    ImportanceKernel(const HeadFacts* heads, int n, int w, const float* scores, const float* stats,
                     float* importance) {
  const int64_t problem = blockIdx.y;
  const int slot = blockIdx.x * kThreads + threadIdx.x, queries = heads[problem].queries;
  if (slot >= heads[problem].width) return;
  const float* column = scores + problem * n * w + slot;
  double squares = 0;
#pragma unroll 4
  for (int i = 0; i < queries; ++i) {
    const float a = Softmax(column[int64_t{i} * w], stats + (problem * n + i) * 2);
    squares += double{a} * a;
  }
  importance[problem * w + slot] = static_cast<float>(sqrt(squares / max(queries, 1)));
}

// A block per problem. A slot's rank is the number of slots before it in the order of importance;
// its place among the kept ones is the number of kept slots before it in the window.
__global__ void __launch_bounds__(kThreads)
    ChooseKernel(const HeadFacts* heads, int w, int t, const float* importance, int32_t* kept) {
  const int64_t problem = blockIdx.x;
  const int width = heads[problem].width, keep = heads[problem].keep;
  float* value = cuda::SharedMemory<float>();
  int* chosen = reinterpret_cast<int*>(value + w);
  for (int j = threadIdx.x; j < width; j += kThreads) value[j] = importance[problem * w + j];
  __syncthreads();
  for (int j = threadIdx.x; j < width; j += kThreads) {
    int rank = 0;
    for (int k = 0; k < width; ++k) rank += value[k] > value[j] || (value[k] == value[j] && k < j);
    chosen[j] = rank < keep;
  }
  __syncthreads();
  for (int j = threadIdx.x; j < width; j += kThreads) {
    if (!chosen[j]) continue;
    int place = 0;
    for (int k = 0; k < j; ++k) place += chosen[k];
    kept[problem * t + place] = j;
  }
  for (int i = keep + threadIdx.x; i < t; i += kThreads) kept[problem * t + i] = -1;
}

// Grid: queries by kWarps, problems; a warp per query.
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const HeadFacts* heads, int n, int w, int t, const float* scores,
                 const float* stats, KeptSlots kept) {
  const int64_t problem = blockIdx.y;
  const int query = blockIdx.x * kWarps + threadIdx.x / cuda::kWarp;
  if (query >= n) return;
  const HeadFacts& facts = heads[problem];
  const int64_t row = problem * n + query;
  for (int j = threadIdx.x % cuda::kWarp; j < t; j += cuda::kWarp) {
    const bool real = query < facts.queries && j < facts.keep;
    const float score = real ? scores[row * w + kept.index[problem * t + j]] : 0.0f;
    kept.scores[row * t + j] = score;
    kept.a[row * t + j] = real ? Softmax(score, stats + row * 2) : 0.0f;
  }
}

// Grid: kept slots, problems; a thread per channel.
template <class Stored>
__global__ void __launch_bounds__(kThreads) GatherValues(DeviceWindows<Stored> x, KeptSlots kept) {
  const int64_t problem = blockIdx.y, at = problem * x.t + blockIdx.x;
  if (static_cast<int>(blockIdx.x) >= x.heads[problem].keep) return;
  const WindowHead<Stored>& head = x.windows[problem];
  const Stored* value = head.v + PoolRow(x, head, kept.index[at]) * x.slot_stride;
  for (int c = threadIdx.x; c < x.d; c += kThreads)
    kept.values[at * x.d + c] = cuda::Wide(value[c]);
}

// Grid: channels, queries by kTile; problems.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    OutputKernel(DeviceWindows<Stored> x, const float* scores, const float* stats, float* y) {
  const int64_t problem = blockIdx.z;
  const HeadFacts& facts = x.heads[problem];
  const WindowHead<Stored>& head = x.windows[problem];
  const int query = blockIdx.y * kTile, channel = blockIdx.x * kTile;
  float *left = cuda::SharedMemory<float>(), *right = left + kDepth * kPitch;
  float sums[kSide][kSide] = {};
  for (int j0 = 0; j0 < facts.width && query < facts.queries; j0 += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
      const int r = i / kDepth, q = query + r, j = j0 + i % kDepth;
      const int64_t at = problem * x.n + q;
      left[i % kDepth * kPitch + r] = q < facts.queries && j < facts.width
                                          ? Softmax(scores[at * x.w + j], stats + at * 2)
                                          : 0.0f;
    }
    for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
      const int j = j0 + i / kTile, c = channel + i % kTile;
      right[i / kTile * kPitch + i % kTile] =
          j < facts.width && c < x.d ? cuda::Wide(head.v[PoolRow(x, head, j) * x.slot_stride + c])
                                     : 0.0f;
    }
    __syncthreads();
    MultiplyTile(left, right, sums);
  }
  const int row = query + threadIdx.x / (kTile / kSide) * kSide;
  const int column = channel + threadIdx.x % (kTile / kSide) * kSide;
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      if (row + i < x.n && column + j < x.d)
        y[(problem * x.n + row + i) * x.d + column + j] = sums[i][j];
    }
  }
}

unsigned Blocks(int count, int of) { return static_cast<unsigned>((count + of - 1) / of); }

}  // namespace

template <class Stored>
cuda::Launched Score(const DeviceWindows<Stored>& x, float* scores, cuda::Stream stream) {
  if (x.d % kDepth != 0)
    return {"d=" + std::to_string(x.d) + " is no multiple of " + std::to_string(kDepth)};
  return cuda::Launch(ScoreKernel<Stored>,
                      {.grid = {Blocks(x.w, kTile), Blocks(x.n, kTile), Blocks(x.problems, 1)},
                       .threads = kThreads,
                       .shared_bytes = kTileBytes},
                      stream, x, scores);
}

template <class Stored>
cuda::Launched Normalise(const DeviceWindows<Stored>& x, const float* scores, float* stats,
                         cuda::Stream stream) {
  return cuda::Launch(
      NormaliseKernel,
      {.grid = {Blocks(x.n, kWarps), Blocks(x.problems, 1), 1}, .threads = kThreads}, stream,
      x.heads, x.n, x.w, scores, stats);
}

template <class Stored>
cuda::Launched Choose(const DeviceWindows<Stored>& x, const float* scores, const float* stats,
                      float* importance, int32_t* kept, cuda::Stream stream) {
  const cuda::Launched ranked =
      cuda::Launch(ImportanceKernel,
                   {.grid = {Blocks(x.w, kThreads), Blocks(x.problems, 1), 1}, .threads = kThreads},
                   stream, x.heads, x.n, x.w, scores, stats, importance);
  if (!ranked.ok()) return ranked;
  return cuda::Launch(ChooseKernel,
                      {.grid = {Blocks(x.problems, 1), 1, 1},
                       .threads = kThreads,
                       .shared_bytes = (sizeof(float) + sizeof(int)) * x.w},
                      stream, x.heads, x.w, x.t, importance, kept);
}

template <class Stored>
cuda::Launched Gather(const DeviceWindows<Stored>& x, const float* scores, const float* stats,
                      const KeptSlots& kept, cuda::Stream stream) {
  const cuda::Launched gathered = cuda::Launch(
      GatherKernel, {.grid = {Blocks(x.n, kWarps), Blocks(x.problems, 1), 1}, .threads = kThreads},
      stream, x.heads, x.n, x.w, x.t, scores, stats, kept);
  if (!gathered.ok()) return gathered;
  return cuda::Launch(GatherValues<Stored>,
                      {.grid = {Blocks(x.t, 1), Blocks(x.problems, 1), 1}, .threads = kThreads},
                      stream, x, kept);
}

template <class Stored>
cuda::Launched Outputs(const DeviceWindows<Stored>& x, const float* scores, const float* stats,
                       float* y, cuda::Stream stream) {
  return cuda::Launch(OutputKernel<Stored>,
                      {.grid = {Blocks(x.d, kTile), Blocks(x.n, kTile), Blocks(x.problems, 1)},
                       .threads = kThreads,
                       .shared_bytes = kTileBytes},
                      stream, x, scores, stats, y);
}

#define PALIMPSEST_WINDOWS(Stored)                                                                 \
  template cuda::Launched Score(const DeviceWindows<Stored>&, float*, cuda::Stream);               \
  template cuda::Launched Normalise(const DeviceWindows<Stored>&, const float*, float*,            \
                                    cuda::Stream);                                                 \
  template cuda::Launched Choose(const DeviceWindows<Stored>&, const float*, const float*, float*, \
                                 int32_t*, cuda::Stream);                                          \
  template cuda::Launched Gather(const DeviceWindows<Stored>&, const float*, const float*,         \
                                 const KeptSlots&, cuda::Stream);                                  \
  template cuda::Launched Outputs(const DeviceWindows<Stored>&, const float*, const float*,        \
                                  float*, cuda::Stream);
PALIMPSEST_WINDOWS(float)
PALIMPSEST_WINDOWS(BFloat16)
#undef PALIMPSEST_WINDOWS

}  // namespace palimpsest::compaction
