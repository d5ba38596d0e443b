#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/cuda/emulation.h"
#include "tests/gpu/device_array.h"

namespace palimpsest::gpu_testing {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kPoison = 0xff;

}  // namespace

DeviceBytes::DeviceBytes(size_t bytes) : bytes_(bytes) {
  const size_t whole = (bytes + 2 * kGuard + 255) / 256 * 256;
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(256, whole));
  std::memset(memory, kPoison, whole);
  data_ = memory + kGuard;
}

DeviceBytes::~DeviceBytes() { std::free(static_cast<unsigned char*>(data_) - kGuard); }

void DeviceBytes::Write(const void* from) {
  if (bytes_ > 0) std::memcpy(data_, from, bytes_);
}

void DeviceBytes::Read(void* to) const {
  if (bytes_ > 0) std::memcpy(to, data_, bytes_);
  const auto* memory = static_cast<const unsigned char*>(data_) - kGuard;
  for (size_t i = 0; i < kGuard; ++i) {
    if (memory[i] != kPoison || memory[kGuard + bytes_ + i] != kPoison) {
      std::fprintf(stderr, "a kernel wrote outside an array of %zu bytes\n", bytes_);
      std::abort();
    }
  }
}

void ShuffleThreads(uint64_t seed) { cuda::ShuffleThreads(seed); }

void WaitForKernels() {}
const char* DeviceName() { return "emulated"; }

}  // namespace palimpsest::gpu_testing
