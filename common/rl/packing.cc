#include "common/rl/packing.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

constexpr int kMostSteps = 256;
constexpr double kEven = 1.01;  // of the mean, where balancing ends

// What stays together: a group, or one item of a group that is too large for a micro-batch.
struct Unit {
  int64_t rows = 0;
  double cost = 0;
  int cut = -1;  // which of the groups that are too large; -1: a whole group
  std::vector<int> items;
};

// A group that is too large.
struct CutGroup {
  int64_t prompt_rows = 0;
  double prompt_cost = 0;
};

struct Units {
  std::vector<Unit> all;  // in the order of the groups' first items
  std::vector<CutGroup> cut;
};

struct Bin {
  int64_t rows = 0;
  double cost = 0;
  int cut = -1;  // whose prompt is here
  std::vector<int> units;
};
using Bins = std::vector<Bin>;

absl::StatusOr<Units> CollectUnits(std::span<const PackItem> items, int64_t max_rows) {
  std::vector<Unit> groups;
  std::map<int64_t, size_t> index_of;
  for (size_t i = 0; i < items.size(); ++i) {
    const PackItem& item = items[i];
    if (item.rows > max_rows) {
      return absl::InvalidArgumentError(
          absl::StrFormat("items[%d].rows=%d is more than max_rows=%d", i, item.rows, max_rows));
    }
    const auto [place, fresh] = index_of.try_emplace(item.group, groups.size());
    if (fresh) groups.push_back({.rows = item.prompt_tokens, .cost = item.prompt_cost});
    Unit& group = groups[place->second];
    group.rows += item.rows - item.prompt_tokens;
    group.cost += item.own_cost;
    group.items.push_back(static_cast<int>(i));
  }
  Units units;
  for (Unit& group : groups) {
    if (group.rows <= max_rows) {
      units.all.push_back(std::move(group));
      continue;
    }
    const PackItem& first = items[group.items.front()];
    for (const int i : group.items) {
      units.all.push_back({.rows = items[i].rows - items[i].prompt_tokens,
                           .cost = items[i].own_cost,
                           .cut = static_cast<int>(units.cut.size()),
                           .items = {i}});
    }
    units.cut.push_back({.prompt_rows = first.prompt_tokens, .prompt_cost = first.prompt_cost});
  }
  return units;
}

// Micro-batches while they are put together.
class Packing {
 public:
  Packing(const Units& units, int64_t max_rows) : units_(units), max_rows_(max_rows) {}

  // One after the other; only the newest is looked at.
  Bins InOrder() const {
    Bins bins;
    int cut = -1;  // whose items come
    for (size_t u = 0; u < units_.all.size(); ++u) {
      const Unit& unit = units_.all[u];
      const bool begins = unit.cut >= 0 && unit.cut != cut;
      cut = unit.cut;
      if (bins.empty() || begins || !Fits(bins.back(), unit)) bins.push_back(Opened(unit.cut));
      Put(static_cast<int>(u), bins.back());
    }
    return bins;
  }

  // The largest first, each where there is room first; pieces of groups before all others.
  Bins FirstFitDecreasing() const {
    std::vector<int> order(units_.all.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [this](int a, int b) {
      const Unit &x = units_.all[a], &y = units_.all[b];
      return std::tuple(x.cut < 0, -x.rows) < std::tuple(y.cut < 0, -y.rows);
    });
    Bins bins;
    for (const int u : order) {
      const Unit& unit = units_.all[u];
      auto bin =
          std::find_if(bins.begin(), bins.end(), [&](const Bin& b) { return Fits(b, unit); });
      if (bin == bins.end()) bin = bins.insert(bin, Opened(unit.cut));
      Put(u, *bin);
    }
    return bins;
  }

  // Brings down the cost of the dearest, step by step.
  void Balance(Bins& bins) const {
    const double even = kEven *
                        std::accumulate(bins.begin(), bins.end(), 0.0,
                                        [](double sum, const Bin& bin) { return sum + bin.cost; }) /
                        static_cast<double>(std::max<size_t>(1, bins.size()));
    for (int step = 0; step < kMostSteps; ++step) {
      const auto dearest = std::max_element(
          bins.begin(), bins.end(), [](const Bin& a, const Bin& b) { return a.cost < b.cost; });
      if (dearest == bins.end() || dearest->cost <= even) return;
      const std::optional<Step> best = BestStep(bins, *dearest);
      if (!best) return;
      Take(best->out, *dearest);
      Put(best->out, bins[best->to]);
      if (best->back < 0) continue;
      Take(best->back, bins[best->to]);
      Put(best->back, *dearest);
    }
  }

 private:
  // Unit `out` of the dearest goes to bin `to`, from which `back` comes, if any.
  struct Step {
    int out = 0;
    size_t to = 0;
    int back = -1;
  };

  Bin Opened(int cut) const {
    if (cut < 0) return {};
    return {.rows = units_.cut[cut].prompt_rows, .cost = units_.cut[cut].prompt_cost, .cut = cut};
  }
  bool Fits(const Bin& bin, const Unit& unit, int64_t room = 0) const {
    return (unit.cut < 0 || unit.cut == bin.cut) && bin.rows + unit.rows <= max_rows_ + room;
  }
  void Put(int u, Bin& bin) const {
    bin.rows += units_.all[u].rows;
    bin.cost += units_.all[u].cost;
    bin.units.push_back(u);
  }
  void Take(int u, Bin& bin) const {
    bin.rows -= units_.all[u].rows;
    bin.cost -= units_.all[u].cost;
    std::erase(bin.units, u);
  }
  // A piece keeps something of its group.
  bool CanLeave(const Unit& unit, const Bin& bin) const {
    return unit.cut < 0 || std::count_if(bin.units.begin(), bin.units.end(),
                                         [&](int u) { return units_.all[u].cut == unit.cut; }) > 1;
  }

  // The one after which the dearer of the two is cheapest; none if that is no cheaper than now.
  std::optional<Step> BestStep(const Bins& bins, const Bin& dearest) const {
    double least = dearest.cost * (1 - 1e-9);
    std::optional<Step> best;
    const auto look = [&](const Step& step, double moved) {
      const double after = std::max(dearest.cost - moved, bins[step.to].cost + moved);
      if (after >= least) return;
      least = after;
      best = step;
    };
    for (const int u : dearest.units) {
      const Unit& out = units_.all[u];
      const bool can_leave = CanLeave(out, dearest);
      for (size_t to = 0; to < bins.size(); ++to) {
        const Bin& bin = bins[to];
        if (&bin == &dearest) continue;
        if (can_leave && Fits(bin, out)) look({u, to, -1}, out.cost);
        for (const int v : bin.units) {
          const Unit& back = units_.all[v];
          if (back.cut != out.cut || !Fits(bin, out, back.rows)) continue;
          if (Fits(dearest, back, out.rows)) look({u, to, v}, out.cost - back.cost);
        }
      }
    }
    return best;
  }

  const Units& units_;
  const int64_t max_rows_;
};

// Items of each bin, see the header.
std::vector<std::vector<int>> Sorted(const Units& units, const Bins& bins) {
  // The first item of the group that is cut here, else of the bin; then that of the bin.
  std::vector<std::pair<std::pair<int, int>, std::vector<int>>> keyed;
  std::vector<int> first_of_cut(units.cut.size(), -1);
  for (const Unit& unit : units.all) {
    if (unit.cut >= 0 && first_of_cut[unit.cut] < 0) first_of_cut[unit.cut] = unit.items.front();
  }
  for (Bin bin : bins) {
    std::sort(bin.units.begin(), bin.units.end());
    std::vector<int> of_bin;
    int first = -1;  // of what decides the order
    for (const int u : bin.units) {
      const Unit& unit = units.all[u];
      of_bin.insert(of_bin.end(), unit.items.begin(), unit.items.end());
      if (first < 0 && unit.cut == bin.cut) first = unit.items.front();
    }
    const int pack = bin.cut >= 0 ? first_of_cut[bin.cut] : first;
    keyed.push_back({{pack, first}, std::move(of_bin)});
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<std::vector<int>> sorted;
  for (auto& [key, of_bin] : keyed) sorted.push_back(std::move(of_bin));
  return sorted;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int>>> PackMicroBatches(std::span<const PackItem> items,
                                                               int64_t max_rows) {
  ASSIGN_OR_RETURN(const Units units, CollectUnits(items, max_rows));
  const Packing packing(units, max_rows);
  Bins bins = packing.FirstFitDecreasing();
  if (Bins others = packing.InOrder(); others.size() < bins.size()) bins = std::move(others);
  packing.Balance(bins);
  return Sorted(units, bins);
}

}  // namespace palimpsest::rl
