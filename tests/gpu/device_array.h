#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Memory that kernels see: a GPU's, or the host's under the emulation. Guards on both sides; what
// was never written is NaN. For tests and benches: what goes wrong ends the process.
namespace palimpsest::gpu_testing {

class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() const { return data_; }
  void Write(const void* from);
  void Read(void* to) const;  // waits for all kernels; checks the guards

 private:
  size_t bytes_;
  void* data_;
};

// Under the emulation threads of a block run from now on in an order drawn from `seed`; a GPU has
// its own. Results must not show it.
void ShuffleThreads(uint64_t seed);

// Waits for all kernels; an error of one of them ends the process.
void WaitForKernels();
// "NVIDIA H200, 132 multiprocessors, ..", or "emulated".
const char* DeviceName();

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count), bytes_(count * sizeof(T)) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    bytes_.Write(values.data());
  }
  T* data() const { return static_cast<T*>(bytes_.data()); }
  void Write(const std::vector<T>& values) { bytes_.Write(values.data()); }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    bytes_.Read(values.data());
    return values;
  }

 private:
  size_t count_;
  DeviceBytes bytes_;
};

}  // namespace palimpsest::gpu_testing
