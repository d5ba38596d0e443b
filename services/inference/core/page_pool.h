#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::inference {

// Slots of one page: one page holds this many slots of every layer and KV head.
inline constexpr int kPageSlots = 16;

inline constexpr int64_t PagesFor(int64_t slots) { return (slots + kPageSlots - 1) / kPageSlots; }

// Where slot `i` of a sequence with this block table stands in the pool.
inline int64_t SlotAt(std::span<const int32_t> table, int32_t i) {
  return int64_t{table[i / kPageSlots]} * kPageSlots + i % kPageSlots;
}

// Who holds which page of the KV cache: a page is free, or held by as many block tables as its
// count says, or kept for what it holds, or both. What is kept or has more than one holder is
// read-only. Owner: engine thread.
class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t pages() const { return static_cast<int64_t>(counts_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  // Kept and held by no table: nobody would miss them but the one who keeps them.
  int64_t idle_pages() const { return idle_; }
  bool Shared(int32_t page) const { return counts_[page] + kept_[page] > 1; }

  // A page with one holder, the lowest that was never used or else the one let go last. The caller
  // has reserved it: free_pages() > 0.
  int32_t Take();
  void Share(int32_t page) { idle_ -= counts_[page]++ == 0; }
  void Release(int32_t page);

  // A held page stays when its last holder lets go. At most once until Drop.
  void Keep(int32_t page);
  void Drop(int32_t page);

  // Is every page free, or kept, or in exactly as many of the block tables as it has holders?
  // INTERNAL names the first page that is not.
  absl::Status Check(std::span<const std::span<const int32_t>> tables) const;

 private:
  std::vector<int32_t> counts_;  // holders of each page
  std::vector<char> kept_;       // is it kept?
  int64_t idle_ = 0;
  std::vector<int32_t> free_;
};

}  // namespace palimpsest::inference
