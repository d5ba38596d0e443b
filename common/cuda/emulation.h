#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

// CUDA's execution model on one CPU thread, as far as our kernels use it: blocks one after another,
// the threads of a block as fibers that go on from barrier to barrier. A kernel compiled as C++
// over this header computes what it computes on a GPU but for rounding (fused multiply-adds,
// functions of libm). What it finds: wrong indices, missing barriers (with ShuffleThreads),
// barriers that not all threads reach, misaligned and uninitialised reads. What it cannot: speed,
// limits of registers, memory order between blocks.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __noinline__

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace palimpsest::cuda {

// The thread that runs now. Blocks have one dimension and whole warps.
struct Place {
  Index3 thread, block;
  dim3 block_size, grid;
};
inline Place place;

// Runs `thread` for each thread of each block, with `shared_bytes` of shared memory that begins as
// NaN. Ends the process where the threads of a block wait for each other in vain, and where
// something wrote past the shared memory.
void Emulate(dim3 grid, int threads, size_t shared_bytes, const std::function<void()>& thread);

// From now on the threads of a block run in an order drawn from `seed` between two barriers; 0: in
// ascending order. Results that depend on it lack a barrier.
void ShuffleThreads(uint64_t seed);

void WaitForBlock();
void WaitForWarp();
char* SharedBytes();
uint64_t FromLane(uint64_t mine, int lane);  // what lane `lane` of the warp gave; all lanes call it
void CheckAligned(const void* address, size_t bytes);  // ends the process where it is not

template <class T>
T Shuffle(T mine, int lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &mine, sizeof(T));
  word = FromLane(word, lane);
  std::memcpy(&mine, &word, sizeof(T));
  return mine;
}

}  // namespace palimpsest::cuda

#define threadIdx (palimpsest::cuda::place.thread)
#define blockIdx (palimpsest::cuda::place.block)
#define blockDim (palimpsest::cuda::place.block_size)
#define gridDim (palimpsest::cuda::place.grid)

inline void __syncthreads() { palimpsest::cuda::WaitForBlock(); }
inline void __syncwarp() { palimpsest::cuda::WaitForWarp(); }
template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return palimpsest::cuda::Shuffle(x, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return palimpsest::cuda::Shuffle(x, static_cast<int>(threadIdx.x % 32) ^ mask);
}
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
template <class T>
T atomicAdd(T* to, T x) {
  const T before = *to;
  *to += x;
  return before;
}
using std::max;
using std::min;
