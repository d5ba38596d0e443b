#include <cmath>

#include "common/attention/cuda/chunks.h"
#include "common/attention/paged_kernel.h"
#include "common/cuda/device.cuh"

namespace palimpsest::attention {
namespace {

constexpr int kThreads = 128;

// Grid: keys by kThreads, KV heads, chunks.
__global__ void __launch_bounds__(kThreads) ListKernel(SlotLists x) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= x.keys) return;
  const int64_t list = int64_t{blockIdx.z} * x.kv_heads + blockIdx.y;
  int64_t slot = -1;
  if (j < x.count[list]) {
    const int at = (x.first ? x.first[list] : 0) + j;
    const int32_t* table = x.tables + int64_t{blockIdx.z} * x.table_pages;
    slot = int64_t{table[at / kSlotsPerPage]} * kSlotsPerPage + at % kSlotsPerPage;
  }
  x.out[list * x.keys + j] = slot;
}

// Grid: channels of a row by kThreads, rows.
__global__ void __launch_bounds__(kThreads) BeginKernel(float* o, float* lse, int heads, int d) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const int64_t row = blockIdx.y;
  if (i < heads * d) o[row * heads * d + i] = 0;
  if (i < heads) lse[row * heads + i] = -INFINITY;
}

template <class Stored>
__global__ void __launch_bounds__(kThreads)
    RoundKernel(const float* o, int64_t count, Stored* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) cuda::Store(o[i], out + i);
}

unsigned Blocks(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

cuda::Launched ListSlots(const SlotLists& x, cuda::Stream stream) {
  return cuda::Launch(
      ListKernel,
      {.grid = {Blocks(x.keys), static_cast<unsigned>(x.kv_heads), static_cast<unsigned>(x.chunks)},
       .threads = kThreads},
      stream, x);
}

cuda::Launched BeginRows(float* o, float* lse, int rows, int heads, int d, cuda::Stream stream) {
  return cuda::Launch(
      BeginKernel,
      {.grid = {Blocks(int64_t{heads} * d), static_cast<unsigned>(rows), 1}, .threads = kThreads},
      stream, o, lse, heads, d);
}

template <class Stored>
cuda::Launched RoundRows(const float* o, int64_t count, Stored* out, cuda::Stream stream) {
  return cuda::Launch(RoundKernel<Stored>, {.grid = {Blocks(count), 1, 1}, .threads = kThreads},
                      stream, o, count, out);
}

template cuda::Launched RoundRows(const float*, int64_t, float*, cuda::Stream);
template cuda::Launched RoundRows(const float*, int64_t, BFloat16*, cuda::Stream);

}  // namespace palimpsest::attention
