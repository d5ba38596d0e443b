#include "services/trainer/engine/slice_layout.h"

#include <algorithm>

namespace palimpsest::trainer {
namespace {

int64_t Width(int64_t count, int size) { return (count + size - 1) / size; }

}  // namespace

FlatRange OwnedRange(int64_t count, int rank, int size) {
  const int64_t width = Width(count, size);
  return {std::min(count, rank * width), std::min(count, (rank + 1) * width)};
}

SliceLayout::SliceLayout(const std::vector<int64_t>& counts, int ranks) : ranks_(ranks) {
  for (size_t tensor = 0; tensor < counts.size(); ++tensor) {
    for (int rank = 0; rank < ranks; ++rank) {
      slices_.push_back({tensor, rank, OwnedRange(counts[tensor], rank, ranks), width_});
    }
    width_ += Width(counts[tensor], ranks);
  }
  width_ += width_ % 2;
}

}  // namespace palimpsest::trainer
