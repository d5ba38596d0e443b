#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::inference {

// Slots of one page: one page holds this many slots of every layer and KV head.
inline constexpr int kPageSlots = 16;

inline constexpr int64_t PagesFor(int64_t slots) { return (slots + kPageSlots - 1) / kPageSlots; }

// Who holds which page of the KV cache: a page is free, or held by as many block tables as its
// count says. Pages with more than one holder are read-only. Owner: engine thread.
class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t pages() const { return static_cast<int64_t>(counts_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  bool Shared(int32_t page) const { return counts_[page] > 1; }

  // A page with one holder, the lowest that was never used or else the one let go last. The caller
  // has reserved it: free_pages() > 0.
  int32_t Take();
  void Share(int32_t page) { ++counts_[page]; }
  void Release(int32_t page);

  // Is every page free or in exactly as many of the block tables as it has holders? INTERNAL names
  // the first page that is not.
  absl::Status Check(std::span<const std::span<const int32_t>> tables) const;

 private:
  std::vector<int32_t> counts_;  // holders of each page; 0 = free
  std::vector<int32_t> free_;
};

}  // namespace palimpsest::inference
