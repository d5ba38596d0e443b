#pragma once

#include <map>
#include <utility>

#include "common/cuda/memory.h"

namespace palimpsest::inference {

// Memory that rings have given back, for others of their size: a GPU's allocator waits for all that
// runs there.
class DeviceShelf {
 public:
  cuda::DeviceMemory Take(size_t bytes) {
    const auto found = shelf_.find(bytes);
    if (found == shelf_.end()) return cuda::DeviceMemory(bytes);
    cuda::DeviceMemory memory = std::move(found->second);
    shelf_.erase(found);
    held_ -= bytes;
    return memory;
  }
  void Give(cuda::DeviceMemory memory) {
    const size_t bytes = memory.bytes();
    if (bytes == 0 || held_ + bytes > kMostBytes) return;
    held_ += bytes;
    shelf_.emplace(bytes, std::move(memory));
  }

 private:
  static constexpr size_t kMostBytes = size_t{1} << 30;
  std::multimap<size_t, cuda::DeviceMemory> shelf_;
  size_t held_ = 0;
};

}  // namespace palimpsest::inference
