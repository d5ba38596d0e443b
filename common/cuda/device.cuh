#pragma once

#include <cstdint>
#include <string>

#include "common/base/bfloat16.h"
#include "common/cuda/launch.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "common/cuda/emulated_device.h"
#include "common/cuda/emulation.h"
#endif

// What our kernels are written in: launches, shared memory, 16-byte loads, sums over warps and
// blocks in a fixed order. Blocks have one dimension and whole warps. This file and emulation.h are
// the only places that know whether nvcc or the C++ compiler compiles a kernel.
namespace palimpsest::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Shape {
  dim3 grid;
  int threads = 0;          // a multiple of kWarp, at most 1024
  size_t shared_bytes = 0;  // dynamic; all shared memory of our kernels is
};

// Puts `kernel` into the stream. An empty grid does nothing.
template <class... Parameters, class... Arguments>
Launched Launch(void (*kernel)(Parameters...), const Shape& shape, Stream stream,
                const Arguments&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return {};
#ifdef __CUDACC__
  if (shape.shared_bytes > 48 * 1024) {
    const cudaError_t refused = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (refused != cudaSuccess) {
      cudaGetLastError();  // told here, not by the next launch
      return {"shared_bytes=" + std::to_string(shape.shared_bytes) + ": " +
              cudaGetErrorString(refused)};
    }
  }
  kernel<<<shape.grid, shape.threads, shape.shared_bytes, stream>>>(Parameters(arguments)...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? Launched{} : Launched{cudaGetErrorString(error)};
#else
  static_cast<void>(stream);
  Submit([=] {
    Emulate(shape.grid, shape.threads, shape.shared_bytes,
            [&] { kernel(Parameters(arguments)...); });
  });
  return {};
#endif
}

#ifdef __CUDACC__
template <class T>
__device__ T* SharedMemory() {
  extern __shared__ __align__(16) unsigned char palimpsest_shared[];
  return reinterpret_cast<T*>(palimpsest_shared);
}
#else
template <class T>
T* SharedMemory() {
  return reinterpret_cast<T*>(SharedBytes());
}
#endif

__device__ inline float Wide(float x) { return x; }
__device__ inline float Wide(BFloat16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
// To the nearest, ties to even, as Narrow of common/base.
__device__ inline void Store(float x, float* to) { *to = x; }
__device__ inline void Store(float x, BFloat16* to) {
  const uint32_t bits = __float_as_uint(x);
  to->bits = static_cast<uint16_t>(x != x ? bits >> 16 | 0x40
                                          : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
template <class Stored>
__device__ float RoundTo(float x) {
  Stored stored;
  Store(x, &stored);
  return Wide(stored);
}

// 16 bytes of Stored, read or written at once; addresses are multiples of 16.
template <class Stored>
struct alignas(16) Chunk {
  static constexpr int kCount = 16 / sizeof(Stored);
  Stored x[kCount];
};
template <class Stored>
__device__ Chunk<Stored> LoadChunk(const Stored* from) {
#ifndef __CUDACC__
  CheckAligned(from, 16);
#endif
  return *reinterpret_cast<const Chunk<Stored>*>(from);
}
template <class Stored>
__device__ void StoreChunk(const Chunk<Stored>& chunk, Stored* to) {
#ifndef __CUDACC__
  CheckAligned(to, 16);
#endif
  *reinterpret_cast<Chunk<Stored>*>(to) = chunk;
}

// Over `kLanes` neighbouring lanes (a power of two), the same bits in each. All lanes of the warp
// call it.
template <int kLanes = kWarp, class Real>
__device__ Real LaneSum(Real x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
template <int kLanes = kWarp, class Real>
__device__ Real LaneMax(Real x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Over the block, the same bits in each thread; `scratch` is shared memory of one Real per warp.
// All threads call it.
template <class Real>
__device__ Real BlockSum(Real x, Real* scratch) {
  x = LaneSum(x);
  __syncthreads();  // the scratch of a call before may still be read
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  Real sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) sum += scratch[w];
  return sum;
}
template <class Real>
__device__ Real BlockMax(Real x, Real* scratch) {
  x = LaneMax(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  Real most = scratch[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) most = max(most, scratch[w]);
  return most;
}

}  // namespace palimpsest::cuda
