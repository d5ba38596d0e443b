#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/context/types.h"

namespace palimpsest::attention {

// The live slots of one KV head of one sequence, ascending by source position: where each key
// stands in storage.
struct HeadSlots {
  std::vector<int32_t> position;
  std::vector<int64_t> slot;

  // Indices [first, last) of the slots whose positions lie in `window`.
  struct Run {
    size_t first = 0, last = 0;
    int count() const { return static_cast<int>(last - first); }
  };
  Run Find(context::Range window) const;
  // Slots [run.first, run.last) become those at `kept` (indices relative to run.first, ascending),
  // standing in `slots`.
  void Replace(Run run, std::span<const int32_t> kept, std::span<const int64_t> slots);
};

// Indices of `positions` (ascending) among the slots of `run`, relative to run.first. All must be
// there.
std::vector<int32_t> IndicesOf(const HeadSlots& head, HeadSlots::Run run,
                               std::span<const int32_t> positions);

}  // namespace palimpsest::attention
