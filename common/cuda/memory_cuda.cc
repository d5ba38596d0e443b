#include "common/cuda/check_cuda.h"
#include "common/cuda/memory.h"

namespace palimpsest::cuda {

std::string WhyNoDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  Ignore(error);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count > 0 ? "" : "no GPU";
}

const char* PlatformName() { return "cuda"; }

// Not behind the default stream: staging of new weights copies beside decoding.
OwnedStream::OwnedStream() {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}
OwnedStream::~OwnedStream() { Ignore(cudaStreamDestroy(stream_)); }

void* OnDevice::Take(size_t bytes) {
  void* data = nullptr;
  if (bytes > 0)
    Check(cudaMalloc(&data, bytes), "cudaMalloc of " + std::to_string(bytes) + " bytes");
  return data;
}
void OnDevice::Give(void* data) noexcept { Ignore(cudaFree(data)); }

void* OnHost::Take(size_t bytes) {
  void* data = nullptr;
  if (bytes > 0)
    Check(cudaMallocHost(&data, bytes), "cudaMallocHost of " + std::to_string(bytes) + " bytes");
  return data;
}
void OnHost::Give(void* data) noexcept { Ignore(cudaFreeHost(data)); }

void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copy to the GPU");
}
void CopyFromDevice(void* to, const void* from, size_t bytes, Stream stream) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy from the GPU");
}
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the GPU");
}
void CopyRowsOnDevice(void* to, const void* from, size_t pitch, size_t bytes, size_t rows,
                      Stream stream) {
  Check(cudaMemcpy2DAsync(to, pitch, from, pitch, bytes, rows, cudaMemcpyDeviceToDevice, stream),
        "copy on the GPU");
}
// Launches have told what they were refused for (Launched).
void Wait(Stream stream) { Check(cudaStreamSynchronize(stream), "a kernel"); }

}  // namespace palimpsest::cuda
