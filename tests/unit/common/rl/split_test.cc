#include "common/rl/split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/base/random.h"

namespace palimpsest::rl {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Cost of each rank, a prompt once for each group that the rank has some of.
std::vector<double> Loads(const std::vector<SplitItem>& items, const std::vector<int>& rank_of,
                          int ranks) {
  std::vector<double> loads(ranks, 0);
  std::set<std::pair<int64_t, int>> prompts;
  for (size_t i = 0; i < items.size(); ++i) {
    loads[rank_of[i]] += items[i].own_cost;
    if (prompts.insert({items[i].group, rank_of[i]}).second) {
      loads[rank_of[i]] += items[i].prompt_cost;
    }
  }
  return loads;
}

TEST(SplitTest, GroupsThatFitAShareStayWholeAndTheDearestGoesFirst) {
  const std::vector<SplitItem> items = {{7, 1, 2}, {8, 1, 6}, {7, 1, 2}, {9, 1, 4}, {8, 1, 1}};
  EXPECT_THAT(SplitOverRanks(items, 2), ElementsAre(1, 0, 1, 1, 0));  // 8; 5 and 5
}

TEST(SplitTest, AGroupDearerThanAShareIsCutInTheOrderOfItsItems) {
  const std::vector<SplitItem> items(8, SplitItem{3, 2, 10});
  EXPECT_THAT(SplitOverRanks(items, 2), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  EXPECT_THAT(SplitOverRanks(items, 1), Each(0));
}

TEST(SplitTest, MoreRanksThanItemsLeavesSomeWithNothing) {
  const std::vector<SplitItem> items = {{0, 5, 1}, {0, 5, 1}};
  EXPECT_THAT(SplitOverRanks(items, 4), ElementsAre(0, 1));
  EXPECT_THAT(SplitOverRanks({}, 4), IsEmpty());
}

TEST(SplitTest, NoRankCostsMuchMoreThanItsShareAndGroupsThatFitStayWhole) {
  RandomStream random(6);
  for (int trial = 0; trial < 200; ++trial) {
    const int ranks = static_cast<int>(random.Between(1, 6));
    std::vector<SplitItem> items;
    for (int i = 0; i < 40; ++i) {
      const int64_t group = random.Below(9);
      items.push_back({group, 2.0 * static_cast<double>(group), 1 + 20 * random.Uniform()});
    }
    const std::vector<int> rank_of = SplitOverRanks(items, ranks);
    const std::vector<double> loads = Loads(items, rank_of, ranks);
    double total = 0;
    for (const double load : loads) total += load;
    EXPECT_LE(*std::max_element(loads.begin(), loads.end()), 1.5 * total / ranks);
    const std::map<int64_t, double> whole = [&] {
      std::map<int64_t, double> cost;
      for (const SplitItem& i : items)
        cost.try_emplace(i.group, i.prompt_cost).first->second += i.own_cost;
      return cost;
    }();
    double single = 0;  // all groups whole, prompts once
    for (const auto& [group, cost] : whole) single += cost;
    for (size_t i = 0; i < items.size(); ++i) {
      if (whole.at(items[i].group) > single / ranks) continue;
      for (size_t j = 0; j < i; ++j) {
        EXPECT_TRUE(items[j].group != items[i].group || rank_of[i] == rank_of[j]);
      }
    }
  }
}

TEST(SplitTest, ManyEqualGroupsAreSharedEvenly) {
  std::vector<SplitItem> items;
  for (int i = 0; i < 64; ++i) items.push_back({i / 4, 10, 25});
  for (const int ranks : {2, 4}) {
    EXPECT_THAT(Loads(items, SplitOverRanks(items, ranks), ranks), Each(16 * 110.0 / ranks));
  }
}

}  // namespace
}  // namespace palimpsest::rl
