#include "common/rl/split.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace palimpsest::rl {
namespace {

// Items of one group that stay together.
struct Part {
  double cost = 0;
  std::vector<int> items;
};

// In the order of their first items.
std::vector<Part> Groups(std::span<const SplitItem> items) {
  std::vector<Part> groups;
  std::map<int64_t, size_t> index_of;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto [place, fresh] = index_of.try_emplace(items[i].group, groups.size());
    if (fresh) groups.push_back({.cost = items[i].prompt_cost});
    groups[place->second].cost += items[i].own_cost;
    groups[place->second].items.push_back(static_cast<int>(i));
  }
  return groups;
}

// Adds `group` to `parts`, cut where it costs more than `share`.
void Cut(std::span<const SplitItem> items, const Part& group, double share,
         std::vector<Part>& parts) {
  const double prompt = items[group.items.front()].prompt_cost;
  const double own = group.cost - prompt;
  // A rounding error must not cost a part more.
  const double pieces =
      std::min(std::ceil(group.cost / share * (1 - 1e-9)), static_cast<double>(group.items.size()));
  if (!(pieces > 1) || own <= 0) {
    parts.push_back(group);
    return;
  }
  double done = 0, piece = -1;
  for (const int i : group.items) {
    // The piece in which the middle of the item lies.
    const double here = std::floor((done + items[i].own_cost / 2) / own * pieces);
    if (here > piece) parts.push_back({.cost = prompt});
    piece = here;
    parts.back().cost += items[i].own_cost;
    parts.back().items.push_back(i);
    done += items[i].own_cost;
  }
}

}  // namespace

std::vector<int> SplitOverRanks(std::span<const SplitItem> items, int ranks) {
  const std::vector<Part> groups = Groups(items);
  const double total = std::accumulate(groups.begin(), groups.end(), 0.0,
                                       [](double sum, const Part& g) { return sum + g.cost; });
  std::vector<Part> parts;
  for (const Part& group : groups) Cut(items, group, total / ranks, parts);
  // Equal costs keep the order of the batch.
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.cost > b.cost; });
  std::vector<double> load(static_cast<size_t>(ranks), 0);
  std::vector<int> rank_of(items.size(), 0);
  for (const Part& part : parts) {
    const auto cheapest = std::min_element(load.begin(), load.end());
    *cheapest += part.cost;
    for (const int i : part.items) rank_of[i] = static_cast<int>(cheapest - load.begin());
  }
  return rank_of;
}

}  // namespace palimpsest::rl
