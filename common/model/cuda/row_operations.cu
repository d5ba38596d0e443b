#include <cmath>

#include "common/cuda/device.cuh"
#include "common/model/cuda/row_operations.h"

namespace palimpsest::model {
namespace {

using cuda::Chunk;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kMostWidth = 32768;  // floats of a row in shared memory
constexpr int kLogProbThreads = 1024;

// A block per row, which stands in shared memory as fp32 between its sum and its output.
template <class Stored>
__global__ void __launch_bounds__(kThreads) NormKernel(NormRows<Stored> r) {
  constexpr int kCount = Chunk<Stored>::kCount;
  float* sums = cuda::SharedMemory<float>();
  float* row = sums + kWarps;
  const int64_t begin = int64_t{blockIdx.x} * r.n;
  float squares = 0;
  for (int i = threadIdx.x * kCount; i < r.n; i += kThreads * kCount) {
    Chunk<Stored> x = cuda::LoadChunk(r.x + begin + i);
    if (r.add) {
      const Chunk<Stored> add = cuda::LoadChunk(r.add + begin + i);
#pragma unroll
      for (int j = 0; j < kCount; ++j)
        cuda::Store(cuda::Wide(x.x[j]) + cuda::Wide(add.x[j]), &x.x[j]);
      cuda::StoreChunk(x, r.x + begin + i);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float value = cuda::Wide(x.x[j]);
      row[i + j] = value;
      squares = fmaf(value, value, squares);
    }
  }
  // Each thread reads what it wrote itself.
  const float mean = cuda::BlockSum(squares, sums) / static_cast<float>(r.n);
  const float scale = 1 / sqrtf(mean + r.eps);
  for (int i = threadIdx.x * kCount; i < r.n; i += kThreads * kCount) {
    const Chunk<Stored> weight = cuda::LoadChunk(r.weight + i);
    Chunk<Stored> out;
#pragma unroll
    for (int j = 0; j < kCount; ++j)
      cuda::Store(row[i + j] * scale * cuda::Wide(weight.x[j]), &out.x[j]);
    cuda::StoreChunk(out, r.out + begin + i);
  }
}

// A query's or key's head, a warp's: channel lane + 32 i is x[i], so that a lane has both of each
// pair that turns.
template <class Stored, int kD>
__device__ void NormAndRotate(float (&x)[kD / cuda::kWarp], const Stored* weight, float eps,
                              const float* cos, const float* sin) {
  constexpr int kCount = kD / cuda::kWarp, kHalf = kCount / 2;
  const int lane = threadIdx.x % cuda::kWarp;
  if (weight) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) squares = fmaf(x[i], x[i], squares);
    const float scale = 1 / sqrtf(cuda::LaneSum(squares) / kD + eps);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      x[i] = cuda::RoundTo<Stored>(x[i] * scale * cuda::Wide(weight[i * cuda::kWarp + lane]));
  }
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float c = cos[i * cuda::kWarp + lane], s = sin[i * cuda::kWarp + lane];
    const float low = x[i], high = x[i + kHalf];
    x[i] = cuda::RoundTo<Stored>(low * c) - high * s;
    x[i + kHalf] = cuda::RoundTo<Stored>(high * c) + low * s;
  }
}

// Grid: rows, heads by eights; a warp per head. Heads of q come first, then those of k, then of v.
template <class Stored, int kD>
__global__ void __launch_bounds__(kThreads) HeadKernel(HeadRows<Stored> r) {
  constexpr int kCount = kD / cuda::kWarp, kPairs = kD / 2;
  const int row = blockIdx.x, lane = threadIdx.x % cuda::kWarp;
  float *cos = cuda::SharedMemory<float>(), *sin = cos + kPairs;
  if (threadIdx.x < kPairs) {
    const float angle = static_cast<float>(r.positions[row]) * r.frequencies[threadIdx.x];
    cos[threadIdx.x] = cuda::RoundTo<Stored>(cosf(angle));
    sin[threadIdx.x] = cuda::RoundTo<Stored>(sinf(angle));
  }
  __syncthreads();
  const int width = r.heads + 2 * r.kv_heads;
  const int head = blockIdx.y * kWarps + threadIdx.x / cuda::kWarp;
  if (head >= width) return;  // a whole warp; no barrier follows but its own
  const bool query = head < r.heads, key = !query && head < r.heads + r.kv_heads;
  const Stored* from = r.qkv + (int64_t{row} * width + head) * kD;
  float x[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = cuda::Wide(from[i * cuda::kWarp + lane]);
  if (query || key) NormAndRotate<Stored, kD>(x, query ? r.q_norm : r.k_norm, r.eps, cos, sin);
  Stored* to = r.q + (int64_t{row} * r.heads + head) * kD;
  if (!query) {
    const int h = (head - r.heads) % r.kv_heads;
    const int64_t slot = r.slots[int64_t{row} * r.kv_heads + h];
    if (slot < 0) return;
    const int64_t place = slot * r.kv_heads + h;
    to = (key ? r.k_pool : r.v_pool) + place * kD;
    if (key && lane == 0) r.bias_pool[place] = 0;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) cuda::Store(x[i], to + i * cuda::kWarp + lane);
}

// A thread per 16 bytes of the output. Grid: chunks of a row by kThreads, rows.
template <class Stored>
__global__ void __launch_bounds__(kThreads) GateKernel(const Stored* gate_up, int n, Stored* out) {
  constexpr int kCount = Chunk<Stored>::kCount;
  const int64_t row = blockIdx.y;
  const int i = (blockIdx.x * kThreads + threadIdx.x) * kCount;
  if (i >= n) return;
  const Chunk<Stored> gate = cuda::LoadChunk(gate_up + 2 * row * n + i);
  const Chunk<Stored> up = cuda::LoadChunk(gate_up + (2 * row + 1) * n + i);
  Chunk<Stored> result;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float g = cuda::Wide(gate.x[j]);
    // Of e^-|g|, which cannot overflow.
    const float e = expf(-fabsf(g));
    const float silu = g * (g < 0 ? e : 1.0f) / (1 + e);
    cuda::Store(cuda::RoundTo<Stored>(silu) * cuda::Wide(up.x[j]), &result.x[j]);
  }
  cuda::StoreChunk(result, out + row * n + i);
}

// A block per row.
__global__ void __launch_bounds__(kLogProbThreads) LogProbKernel(TokenRows r) {
  float* scratch = cuda::SharedMemory<float>();
  const float* logits = r.logits + int64_t{blockIdx.x} * r.vocabulary;
  float most = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < r.vocabulary; i += kLogProbThreads) {
    const float z = logits[i] / r.temperature;
    if (z > most) sum *= expf(most - z), most = z;
    if (z > -INFINITY) sum += expf(z - most);
  }
  const float high = cuda::BlockMax(most, scratch);
  sum = cuda::BlockSum(most > -INFINITY ? sum * expf(most - high) : 0.0f, scratch);
  if (threadIdx.x > 0) return;
  const int target = r.targets[blockIdx.x];
  r.logprobs[blockIdx.x] = target < 0 ? 0.0f : logits[target] / r.temperature - high - logf(sum);
}

unsigned Blocks(int count, int of) { return static_cast<unsigned>((count + of - 1) / of); }

}  // namespace

template <class Stored>
cuda::Launched AddAndNorm(const NormRows<Stored>& r, cuda::Stream stream) {
  if (r.n % 8 != 0 || r.n > kMostWidth)
    return {"n=" + std::to_string(r.n) + " is no multiple of 8 up to " +
            std::to_string(kMostWidth)};
  return cuda::Launch(NormKernel<Stored>,
                      {.grid = {static_cast<unsigned>(r.rows), 1, 1},
                       .threads = kThreads,
                       .shared_bytes = sizeof(float) * (kWarps + r.n)},
                      stream, r);
}

template <class Stored>
cuda::Launched RotateAndCache(const HeadRows<Stored>& r, cuda::Stream stream) {
  if (r.d != 64 && r.d != 128) return {"d=" + std::to_string(r.d) + " is neither 64 nor 128"};
  const cuda::Shape shape{
      .grid = {static_cast<unsigned>(r.rows), Blocks(r.heads + 2 * r.kv_heads, kWarps), 1},
      .threads = kThreads,
      .shared_bytes = sizeof(float) * r.d};
  return r.d == 64 ? cuda::Launch(HeadKernel<Stored, 64>, shape, stream, r)
                   : cuda::Launch(HeadKernel<Stored, 128>, shape, stream, r);
}

template <class Stored>
cuda::Launched Gate(const Stored* gate_up, int rows, int n, Stored* out, cuda::Stream stream) {
  if (n % 8 != 0) return {"n=" + std::to_string(n) + " is no multiple of 8"};
  return cuda::Launch(
      GateKernel<Stored>,
      {.grid = {Blocks(n, kThreads * Chunk<Stored>::kCount), static_cast<unsigned>(rows), 1},
       .threads = kThreads},
      stream, gate_up, n, out);
}

cuda::Launched TokenLogProbs(const TokenRows& r, cuda::Stream stream) {
  if (!(r.temperature > 0))
    return {"temperature=" + std::to_string(r.temperature) + " is not above 0"};
  return cuda::Launch(LogProbKernel,
                      {.grid = {static_cast<unsigned>(r.rows), 1, 1},
                       .threads = kLogProbThreads,
                       .shared_bytes = sizeof(float) * (kLogProbThreads / cuda::kWarp)},
                      stream, r);
}

#define PALIMPSEST_ROW_OPERATIONS(Stored)                                        \
  template cuda::Launched AddAndNorm(const NormRows<Stored>&, cuda::Stream);     \
  template cuda::Launched RotateAndCache(const HeadRows<Stored>&, cuda::Stream); \
  template cuda::Launched Gate(const Stored*, int, int, Stored*, cuda::Stream);
PALIMPSEST_ROW_OPERATIONS(float)
PALIMPSEST_ROW_OPERATIONS(BFloat16)
#undef PALIMPSEST_ROW_OPERATIONS

}  // namespace palimpsest::model
