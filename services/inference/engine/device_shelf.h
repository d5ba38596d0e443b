#pragma once

#include <map>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/cuda/memory.h"

namespace palimpsest::inference {

// Memory that rings have given back, for others of their size: a GPU's allocator waits for all that
// runs there. Whoever finds no memory empties the shelf and asks again. Thread: any.
class DeviceShelf {
 public:
  // What `take` gives; once more, when there was no memory and some stood here.
  template <class Do>
  auto OrEmptied(const Do& take) {
    try {
      return take();
    } catch (const cuda::NoMemory&) {
      if (!Empty()) throw;
    }
    return take();
  }

  cuda::DeviceMemory Take(size_t bytes) {
    {
      const absl::MutexLock lock(&mu_);
      if (const auto found = shelf_.find(bytes); found != shelf_.end()) {
        cuda::DeviceMemory memory = std::move(found->second);
        shelf_.erase(found);
        held_ -= bytes;
        return memory;
      }
    }
    return OrEmptied([&] { return cuda::DeviceMemory(bytes); });
  }
  void Give(cuda::DeviceMemory memory) {
    const absl::MutexLock lock(&mu_);
    const size_t bytes = memory.bytes();
    if (bytes == 0 || held_ + bytes > kMostBytes) return;
    held_ += bytes;
    shelf_.emplace(bytes, std::move(memory));
  }

 private:
  static constexpr size_t kMostBytes = size_t{1} << 30;

  bool Empty() {
    const absl::MutexLock lock(&mu_);
    held_ = 0;
    const bool some = !shelf_.empty();
    shelf_.clear();
    return some;
  }

  absl::Mutex mu_;
  std::multimap<size_t, cuda::DeviceMemory> shelf_ ABSL_GUARDED_BY(mu_);
  size_t held_ ABSL_GUARDED_BY(mu_) = 0;
};

// Grows `memory` to at least `bytes`; what stood in it is lost. Without memory it is left empty.
template <class Place>
void Grow(cuda::Memory<Place>& memory, size_t bytes, DeviceShelf& shelf) {
  if (bytes <= memory.bytes()) return;
  memory = {};
  memory = shelf.OrEmptied([&] { return cuda::Memory<Place>(bytes); });
}

}  // namespace palimpsest::inference
