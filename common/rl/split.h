#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest::rl {

// What an item of a batch costs to learn from. Costs are in rows: of a pair of a row with a slot
// that it attends to, the caller says how many rows it is worth.
struct SplitItem {
  int64_t group = 0;       // items of one group share their prompt
  double prompt_cost = 0;  // of the prompt's rows and pairs; equal within a group
  double own_cost = 0;     // of the others
};

// Gives each item to one of `ranks` ranks, so that the dearest rank costs little more than its
// share; a group's prompt costs once on each rank that has some of the group. Groups stay whole
// unless one alone is dearer than a rank's share; such a group is cut, in the order of its items,
// into as few parts as bring each near it. The dearest part goes first, always to the cheapest
// rank. Returns a rank for each item, [0, ranks): a pure function of its arguments. A rank may get
// nothing.
std::vector<int> SplitOverRanks(std::span<const SplitItem> items, int ranks);

}  // namespace palimpsest::rl
