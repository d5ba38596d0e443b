#include "common/cuda/device.cuh"
#include "common/model/cuda/row_copies.h"

namespace palimpsest::model {
namespace {

using cuda::Chunk;

constexpr int kThreads = 128;

// All: a thread per 16 bytes. Grid: chunks of a row by kThreads, rows.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    TakeKernel(const Stored* from, const int32_t* index, int n, Stored* out) {
  constexpr int kCount = Chunk<Stored>::kCount;
  const int i = (blockIdx.x * kThreads + threadIdx.x) * kCount;
  if (i >= n) return;
  const int64_t row = blockIdx.y;
  cuda::StoreChunk(cuda::LoadChunk(from + index[row] * int64_t{n} + i), out + row * n + i);
}

template <class Stored>
__global__ void __launch_bounds__(kThreads) ScatterKernel(ScatteredRows<Stored> r) {
  constexpr int kCount = Chunk<Stored>::kCount;
  const int i = (blockIdx.x * kThreads + threadIdx.x) * kCount;
  const int64_t row = blockIdx.y;
  if (i >= r.n || r.to[row] == nullptr) return;
  cuda::StoreChunk(cuda::LoadChunk(r.from + row * r.n + i),
                   r.to[row] + r.layer * r.stride[row] + i);
}

template <class Stored>
__global__ void __launch_bounds__(kThreads) BiasKernel(const Stored* bias, int n, Stored* y) {
  constexpr int kCount = Chunk<Stored>::kCount;
  const int i = (blockIdx.x * kThreads + threadIdx.x) * kCount;
  if (i >= n) return;
  const int64_t row = blockIdx.y;
  const Chunk<Stored> b = cuda::LoadChunk(bias + i);
  Chunk<Stored> sum = cuda::LoadChunk(y + row * n + i);
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    cuda::Store(cuda::Wide(sum.x[j]) + cuda::Wide(b.x[j]), &sum.x[j]);
  cuda::StoreChunk(sum, y + row * n + i);
}

template <class Stored>
cuda::Shape ShapeOf(int rows, int n) {
  const int chunks = kThreads * Chunk<Stored>::kCount;
  return {
      .grid = {static_cast<unsigned>((n + chunks - 1) / chunks), static_cast<unsigned>(rows), 1},
      .threads = kThreads};
}

std::string Refusal(int n) {
  return n % 8 == 0 ? "" : "n=" + std::to_string(n) + " is no multiple of 8";
}

}  // namespace

template <class Stored>
cuda::Launched TakeRows(const Stored* from, const int32_t* index, int rows, int n, Stored* out,
                        cuda::Stream stream) {
  if (const std::string refusal = Refusal(n); !refusal.empty()) return {refusal};
  return cuda::Launch(TakeKernel<Stored>, ShapeOf<Stored>(rows, n), stream, from, index, n, out);
}

template <class Stored>
cuda::Launched ScatterRows(const ScatteredRows<Stored>& r, cuda::Stream stream) {
  if (const std::string refusal = Refusal(r.n); !refusal.empty()) return {refusal};
  return cuda::Launch(ScatterKernel<Stored>, ShapeOf<Stored>(r.rows, r.n), stream, r);
}

template <class Stored>
cuda::Launched AddBias(const Stored* bias, int rows, int n, Stored* y, cuda::Stream stream) {
  if (const std::string refusal = Refusal(n); !refusal.empty()) return {refusal};
  return cuda::Launch(BiasKernel<Stored>, ShapeOf<Stored>(rows, n), stream, bias, n, y);
}

#define PALIMPSEST_ROW_COPIES(Stored)                                                \
  template cuda::Launched TakeRows(const Stored*, const int32_t*, int, int, Stored*, \
                                   cuda::Stream);                                    \
  template cuda::Launched ScatterRows(const ScatteredRows<Stored>&, cuda::Stream);   \
  template cuda::Launched AddBias(const Stored*, int, int, Stored*, cuda::Stream);
PALIMPSEST_ROW_COPIES(float)
PALIMPSEST_ROW_COPIES(BFloat16)
#undef PALIMPSEST_ROW_COPIES

}  // namespace palimpsest::model
