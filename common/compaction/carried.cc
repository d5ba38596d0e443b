#include "common/compaction/carried.h"

#include <algorithm>

namespace palimpsest::compaction {
namespace {

using context::Chooser;
using context::Range;

int32_t CountIn(Range range, std::span<const int32_t> ascending) {
  const auto begin = std::lower_bound(ascending.begin(), ascending.end(), range.begin);
  return static_cast<int32_t>(std::lower_bound(begin, ascending.end(), range.end) - begin);
}

}  // namespace

bool CarriedImportance::Holds(Chooser chooser) const {
  return sum_ == (chooser == Chooser::kAccumulated);
}

std::vector<Stretch> CarriedImportance::Stretches(Range window,
                                                  std::span<const int32_t> positions) const {
  std::vector<Stretch> stretches;
  const auto add = [&](Range range) {
    if (!range.empty()) stretches.push_back({range.size(), CountIn(range, positions)});
  };
  int32_t raw = window.begin;
  for (const Range block : blocks_) {
    if (block.begin < window.begin || block.end > window.end) continue;
    add({raw, block.begin});
    add(block);
    raw = block.end;
  }
  add({raw, window.end});
  return stretches;
}

void CarriedImportance::AddEarlier(Chooser chooser, std::span<const int32_t> positions,
                                   std::span<double> received) const {
  if (!Holds(chooser)) return;
  size_t from = 0;
  for (size_t j = 0; j < positions.size(); ++j) {
    while (from < positions_.size() && positions_[from] < positions[j]) ++from;
    if (from == positions_.size()) return;
    if (positions_[from] != positions[j]) continue;
    received[j] = sum_ ? received[j] + received_[from] : std::max(received[j], received_[from]);
  }
}

void CarriedImportance::Replace(Chooser chooser, Range window, std::span<const int32_t> kept,
                                std::span<const double> received) {
  if (!Holds(chooser)) {
    positions_.clear();
    received_.clear();
    sum_ = chooser == Chooser::kAccumulated;
  }
  Replace(window, {});
  const auto place = std::lower_bound(positions_.begin(), positions_.end(), window.begin);
  received_.insert(received_.begin() + (place - positions_.begin()), received.begin(),
                   received.end());
  positions_.insert(place, kept.begin(), kept.end());
}

void CarriedImportance::Replace(Range window, std::span<const int32_t> kept) {
  size_t left = 0;
  for (size_t i = 0; i < positions_.size(); ++i) {
    if (window.contains(positions_[i]) &&
        !std::binary_search(kept.begin(), kept.end(), positions_[i])) {
      continue;
    }
    positions_[left] = positions_[i];
    received_[left++] = received_[i];
  }
  positions_.resize(left);
  received_.resize(left);
  std::erase_if(blocks_, [&](Range block) { return window.contains(block.begin); });
  const auto after = std::find_if(blocks_.begin(), blocks_.end(),
                                  [&](Range block) { return block.begin >= window.end; });
  blocks_.insert(after, window);
}

std::vector<int32_t> ChooseCarried(Chooser chooser, std::span<const double> received,
                                   std::span<const Stretch> stretches, std::span<const double> keys,
                                   int d, int t) {
  if (chooser == Chooser::kCarriedMax) return LargestByShare(received, stretches, t);
  if (chooser == Chooser::kDiverse) return DiverseSlots(received, keys, d, t);
  return LargestByImportance(received, t);
}

}  // namespace palimpsest::compaction
