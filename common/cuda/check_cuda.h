#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "common/cuda/memory.h"

namespace palimpsest::cuda {

// What a call answered. It is reported here and nowhere else: the runtime keeps a thread's last
// error until somebody asks, and the launch after one that was dealt with would be blamed for it.
inline void Check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  const std::string said = what + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) throw NoMemory(said);
  throw std::runtime_error(said);
}

// The same where nothing can be done about it: what ends a process's work on the GPU is told by the
// next call.
inline void Ignore(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
}

}  // namespace palimpsest::cuda
