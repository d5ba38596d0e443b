#include "common/attention/live_slots.h"

#include <algorithm>

namespace palimpsest::attention {

HeadSlots::Run HeadSlots::Find(context::Range window) const {
  const auto at = [&](int32_t p) {
    return static_cast<size_t>(std::lower_bound(position.begin(), position.end(), p) -
                               position.begin());
  };
  return {.first = at(window.begin), .last = at(window.end)};
}

void HeadSlots::Replace(Run run, std::span<const int32_t> kept, std::span<const int64_t> slots) {
  for (size_t j = 0; j < kept.size(); ++j) {
    position[run.first + j] = position[run.first + kept[j]];
    slot[run.first + j] = slots[j];
  }
  const auto from = static_cast<std::ptrdiff_t>(run.first + kept.size()),
             to = static_cast<std::ptrdiff_t>(run.last);
  position.erase(position.begin() + from, position.begin() + to);
  slot.erase(slot.begin() + from, slot.begin() + to);
}

std::vector<int32_t> IndicesOf(const HeadSlots& head, HeadSlots::Run run,
                               std::span<const int32_t> positions) {
  std::vector<int32_t> out;
  out.reserve(positions.size());
  size_t j = run.first;
  for (int32_t p : positions) {
    while (j < run.last && head.position[j] < p) ++j;
    out.push_back(static_cast<int32_t>(j - run.first));
  }
  return out;
}

}  // namespace palimpsest::attention
