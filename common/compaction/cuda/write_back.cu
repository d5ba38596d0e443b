#include "common/compaction/cuda/write_back.h"
#include "common/cuda/device.cuh"

namespace palimpsest::compaction {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 16;  // that are read before they are written
constexpr int kMostWidth = 256;

// A block per problem. Row r of what stays comes from a slot at or behind r, and later rows from
// later slots: rows that are read before they are written, some at a time and in order, are never
// read too late.
template <class Stored>
__global__ void __launch_bounds__(kThreads) WriteBackKernel(WriteBackBatch<Stored> x) {
  const int64_t problem = blockIdx.x;
  const HeadFacts& facts = x.heads[problem];
  const SlotsHead<Stored>& target = x.targets[problem];
  const int32_t* kept = x.kept + problem * x.t;
  Stored *k = cuda::SharedMemory<Stored>(), *v = k + kRows * x.d;
  float* bias = reinterpret_cast<float*>(v + kRows * x.d);
  const auto row_of = [&](int slot) {
    const int at = target.first + slot;
    return int64_t{target.table[at / x.page_slots]} * x.page_slots + at % x.page_slots;
  };
  const int rows = facts.keep + target.slots - target.first - facts.width;
  for (int r0 = 0; r0 < rows; r0 += kRows) {
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * x.d; i += kThreads) {
      const int r = r0 + i / x.d, c = i % x.d;
      if (r >= rows) continue;
      const bool is_kept = r < facts.keep, is_new = is_kept && x.values != nullptr;
      const int64_t from = row_of(is_kept ? kept[r] : facts.width + r - facts.keep);
      k[i] = target.k[from * x.slot_stride + c];
      v[i] = is_new ? x.values[(problem * x.t + r) * x.d + c] : target.v[from * x.slot_stride + c];
      if (c == 0)
        bias[i / x.d] = is_new ? x.bias[problem * x.t + r] : target.bias[from * x.bias_stride];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * x.d; i += kThreads) {
      const int r = r0 + i / x.d, c = i % x.d;
      if (r >= rows) continue;
      const int64_t to = row_of(r);
      target.k[to * x.slot_stride + c] = k[i];
      target.v[to * x.slot_stride + c] = v[i];
      if (c == 0) target.bias[to * x.bias_stride] = bias[i / x.d];
    }
  }
}

}  // namespace

template <class Stored>
cuda::Launched WriteBack(const WriteBackBatch<Stored>& x, cuda::Stream stream) {
  if (x.d < 1 || x.d > kMostWidth)
    return {"d=" + std::to_string(x.d) + " is not in [1, " + std::to_string(kMostWidth) + "]"};
  return cuda::Launch(WriteBackKernel<Stored>,
                      {.grid = {static_cast<unsigned>(x.problems), 1, 1},
                       .threads = kThreads,
                       .shared_bytes = kRows * (2 * sizeof(Stored) * x.d + sizeof(float))},
                      stream, x);
}

template cuda::Launched WriteBack(const WriteBackBatch<float>&, cuda::Stream);
template cuda::Launched WriteBack(const WriteBackBatch<BFloat16>&, cuda::Stream);

}  // namespace palimpsest::compaction
