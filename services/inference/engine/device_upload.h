#pragma once

#include <algorithm>
#include <span>

#include "common/cuda/memory.h"

namespace palimpsest::inference {

// Grows `memory` to at least `bytes` (what stood in it is lost). True: it has moved.
inline bool Grow(cuda::DeviceMemory& memory, size_t bytes) {
  if (bytes <= memory.bytes()) return false;
  memory = {};
  memory = cuda::DeviceMemory(bytes);
  return true;
}

// Arrays that go to a device in one copy: filled here one after another, at addresses that hang on
// their sizes alone.
class DeviceUpload {
 public:
  static constexpr size_t kAlign = 256;

  // Begins anew, with room for so many bytes and kAlign for each array; waits for the copy before.
  // True: arrays stand elsewhere than before.
  bool Begin(size_t bytes, cuda::Stream stream) {
    cuda::Wait(stream);
    used_ = 0;
    if (bytes <= device_.bytes()) return false;
    const size_t room = std::max(bytes, 2 * device_.bytes());
    device_ = {};
    host_ = {};
    device_ = cuda::DeviceMemory(room);
    host_ = cuda::HostMemory(room);
    return true;
  }
  // An array of `count`; `here` is where it is filled, the answer where kernels read it.
  template <class T>
  T* Put(size_t count, std::span<T>& here) {
    const size_t at = used_;
    used_ += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    here = {reinterpret_cast<T*>(host_.as<char>() + at), count};
    return reinterpret_cast<T*>(device_.as<char>() + at);
  }
  void Send(cuda::Stream stream) {
    cuda::CopyToDevice(device_.as<char>(), host_.as<char>(), used_, stream);
  }

 private:
  cuda::DeviceMemory device_;
  cuda::HostMemory host_;
  size_t used_ = 0;
};

}  // namespace palimpsest::inference
