#pragma once

#include <algorithm>
#include <span>

#include "services/inference/engine/device_shelf.h"

namespace palimpsest::inference {

// Arrays that go to a device in one copy: filled here one after another, at addresses that hang on
// their sizes alone.
class DeviceUpload {
 public:
  static constexpr size_t kAlign = 256;

  // The shelf outlives it.
  explicit DeviceUpload(DeviceShelf& shelf) : shelf_(shelf) {}

  // Begins anew, with room for so many bytes and kAlign for each array; waits for the copy before.
  void Begin(size_t bytes, cuda::Stream stream) {
    cuda::Wait(stream);
    used_ = 0;
    const size_t both = std::min(device_.bytes(), host_.bytes());  // one may have been left empty
    if (bytes <= both) return;
    const size_t room = std::max(bytes, 2 * both);
    Grow(device_, room, shelf_);
    Grow(host_, room, shelf_);
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
  // Where the arrays stand on the device.
  const void* place() const { return device_.as<void>(); }

 private:
  DeviceShelf& shelf_;
  cuda::DeviceMemory device_;
  cuda::HostMemory host_;
  size_t used_ = 0;
};

}  // namespace palimpsest::inference
