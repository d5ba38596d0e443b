#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/gpu/device_array.h"

namespace palimpsest::gpu_testing {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kPoison = 0xff;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

}  // namespace

DeviceBytes::DeviceBytes(size_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, bytes + 2 * kGuard), "no memory on a GPU (is there one?)");
  Check(cudaMemset(memory, kPoison, bytes + 2 * kGuard), "cudaMemset");
  data_ = static_cast<unsigned char*>(memory) + kGuard;
}

DeviceBytes::~DeviceBytes() { cudaFree(static_cast<unsigned char*>(data_) - kGuard); }

void DeviceBytes::Write(const void* from) {
  Check(cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice), "copy to the GPU");
}

void DeviceBytes::Read(void* to) const {
  WaitForKernels();
  Check(cudaMemcpy(to, data_, bytes_, cudaMemcpyDeviceToHost), "copy from the GPU");
  const auto* memory = static_cast<const unsigned char*>(data_) - kGuard;
  for (const unsigned char* guard : {memory, memory + kGuard + bytes_}) {
    std::vector<unsigned char> seen(kGuard);
    Check(cudaMemcpy(seen.data(), guard, kGuard, cudaMemcpyDeviceToHost), "copy of a guard");
    for (const unsigned char byte : seen) {
      if (byte == kPoison) continue;
      std::fprintf(stderr, "a kernel wrote outside an array of %zu bytes\n", bytes_);
      std::abort();
    }
  }
}

void ShuffleThreads(uint64_t) {}

void WaitForKernels() {
  Check(cudaGetLastError(), "a launch");
  Check(cudaDeviceSynchronize(), "a kernel");
}

const char* DeviceName() {
  static cudaDeviceProp properties = [] {
    cudaDeviceProp p;
    Check(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
    return p;
  }();
  return properties.name;
}

}  // namespace palimpsest::gpu_testing
