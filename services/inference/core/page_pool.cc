#include "services/inference/core/page_pool.h"

#include <cassert>

#include "absl/strings/str_format.h"

namespace palimpsest::inference {

PagePool::PagePool(int64_t pages) : counts_(pages, 0), kept_(pages, 0), free_(pages) {
  for (int64_t i = 0; i < pages; ++i) free_[i] = static_cast<int32_t>(pages - 1 - i);
}

int32_t PagePool::Take() {
  assert(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  counts_[page] = 1;
  return page;
}

void PagePool::Release(int32_t page) {
  assert(counts_[page] > 0);
  if (--counts_[page] > 0) return;
  if (kept_[page])
    ++idle_;
  else
    free_.push_back(page);
}

void PagePool::Keep(int32_t page) {
  assert(counts_[page] > 0 && !kept_[page]);
  kept_[page] = true;
}

void PagePool::Drop(int32_t page) {
  assert(kept_[page]);
  kept_[page] = false;
  if (counts_[page] > 0) return;
  --idle_;
  free_.push_back(page);
}

absl::Status PagePool::Check(std::span<const std::span<const int32_t>> tables) const {
  std::vector<int32_t> seen(counts_.size(), 0);
  for (const auto& table : tables) {
    for (int32_t page : table) {
      if (page < 0 || page >= pages())
        return absl::InternalError(
            absl::StrFormat("a block table has page %d, not in [0, %d)", page, pages()));
      ++seen[page];
    }
  }
  for (int32_t page : free_) {
    if (counts_[page] != 0 || kept_[page])
      return absl::InternalError(absl::StrFormat("page %d is free, has %d holders and is%s kept",
                                                 page, counts_[page], kept_[page] ? "" : " not"));
  }
  int64_t held = 0, idle = 0;
  for (size_t page = 0; page < counts_.size(); ++page) {
    held += counts_[page] > 0;
    idle += counts_[page] == 0 && kept_[page];
    if (counts_[page] == seen[page]) continue;
    return absl::InternalError(absl::StrFormat("page %d has %d holders and stands in %d tables",
                                               page, counts_[page], seen[page]));
  }
  if (held + idle + free_pages() != pages() || idle != idle_)
    return absl::InternalError(
        absl::StrFormat("%d pages are held, %d only kept (counted: %d) and %d free, of %d", held,
                        idle, idle_, free_pages(), pages()));
  return absl::OkStatus();
}

}  // namespace palimpsest::inference
