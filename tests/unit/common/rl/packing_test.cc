#include "common/rl/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "common/base/random.h"

namespace palimpsest::rl {
namespace {

using ::testing::ElementsAre;

TEST(PackingTest, GroupsStayWholeWhereTheyFit) {
  // Rows with the prompt once: group 1 is 10 + 3 * 5 = 25, group 2 is 10 + 2 * 5 = 20.
  const std::vector<PackItem> items = {
      {1, 10, 15}, {2, 10, 15}, {1, 10, 15}, {1, 10, 15}, {2, 10, 15}};
  EXPECT_THAT(*PackMicroBatches(items, 45), ElementsAre(ElementsAre(0, 2, 3, 1, 4)));
  EXPECT_THAT(*PackMicroBatches(items, 44), ElementsAre(ElementsAre(0, 2, 3), ElementsAre(1, 4)));
  EXPECT_THAT(*PackMicroBatches(items, 20),
              ElementsAre(ElementsAre(0, 2), ElementsAre(3), ElementsAre(1, 4)));
}

TEST(PackingTest, AnItemOverTheCapIsRefused) {
  const std::vector<PackItem> items = {{1, 10, 15}};
  EXPECT_TRUE(PackMicroBatches(items, 15).ok());
  EXPECT_FALSE(PackMicroBatches(items, 14).ok());
}

// What a micro-batch takes, its prompts once.
struct Taken {
  int64_t rows = 0;
  double cost = 0;
};
Taken Of(const std::vector<PackItem>& items, const std::vector<int>& batch) {
  Taken taken;
  std::set<int64_t> prompts;
  for (const int i : batch) {
    taken.rows += items[i].rows - items[i].prompt_tokens;
    taken.cost += items[i].own_cost;
    if (!prompts.insert(items[i].group).second) continue;
    taken.rows += items[i].prompt_tokens;
    taken.cost += items[i].prompt_cost;
  }
  return taken;
}

double Dearest(const std::vector<PackItem>& items, const std::vector<std::vector<int>>& batches) {
  double most = 0;
  for (const std::vector<int>& batch : batches) most = std::max(most, Of(items, batch).cost);
  return most;
}

// The plain way: group after group in the order of the batch, a new micro-batch where one does not
// fit, a group that is too large beginning one and cut item by item.
std::vector<std::vector<int>> OneAfterTheOther(const std::vector<PackItem>& items, int64_t cap) {
  std::vector<int64_t> groups;
  std::map<int64_t, std::vector<int>> of_group;
  for (size_t i = 0; i < items.size(); ++i) {
    if (of_group[items[i].group].empty()) groups.push_back(items[i].group);
    of_group[items[i].group].push_back(static_cast<int>(i));
  }
  std::vector<std::vector<int>> batches(1);
  for (const int64_t group : groups) {
    const std::vector<int>& members = of_group[group];
    const auto with = [&](const std::vector<int>& more) {
      std::vector<int> all = batches.back();
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const bool whole = Of(items, members).rows <= cap;
    if (!batches.back().empty() && (!whole || Of(items, with(members)).rows > cap)) {
      batches.emplace_back();
    }
    if (whole) {
      batches.back() = with(members);
      continue;
    }
    for (const int i : members) {
      if (Of(items, with({i})).rows > cap) batches.emplace_back();
      batches.back().push_back(i);
    }
  }
  return batches;
}

// Groups of 1 to 8 sequences, their items mixed; now and then a sequence as long as a micro-batch.
std::vector<PackItem> RandomItems(RandomStream& random, int64_t cap) {
  std::vector<PackItem> items;
  const int64_t groups = random.Between(1, 14);
  for (int64_t group = 0; group < groups; ++group) {
    const auto prompt = static_cast<int32_t>(random.Between(0, cap / 3));
    const int64_t longest = random.Below(8) == 0 ? cap - prompt : cap / 4;
    const int64_t sequences = random.Between(1, 8);
    for (int64_t i = 0; i < sequences; ++i) {
      const auto own = static_cast<int32_t>(random.Between(1, longest));
      const double pairs = own * (prompt + own / 2.0);
      items.push_back({.group = group,
                       .prompt_tokens = prompt,
                       .rows = prompt + own,
                       .prompt_cost = prompt + 1e-2 * prompt * prompt / 2,
                       // A log of events makes rows cheaper.
                       .own_cost = own + 1e-2 * pairs * (random.Below(2) == 0 ? 1 : 0.3)});
    }
  }
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.Below(i)]);
  return items;
}

TEST(PackingTest, OverRandomShapesItIsWholeUnderTheCapInFewerMicroBatchesAndCheaperOnes) {
  RandomStream random(5);
  constexpr int kTrials = 400;
  int fewer = 0, cut = 0, compared = 0;
  double dearest = 0, plain_dearest = 0, all = 0, plain_all = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const int64_t cap = random.Between(40, 240);
    const std::vector<PackItem> items = RandomItems(random, cap);
    const auto batches = PackMicroBatches(items, cap);
    ASSERT_TRUE(batches.ok()) << batches.status();
    EXPECT_EQ(*batches, *PackMicroBatches(items, cap));
    std::vector<int> seen(items.size(), 0);
    std::map<int64_t, std::vector<int>> of_group, places;
    for (size_t i = 0; i < items.size(); ++i) of_group[items[i].group].push_back(i);
    for (size_t b = 0; b < batches->size(); ++b) {
      EXPECT_FALSE((*batches)[b].empty());
      EXPECT_LE(Of(items, (*batches)[b]).rows, cap);
      std::vector<int64_t> runs;  // groups, as they come
      for (const int i : (*batches)[b]) {
        ++seen[i];
        if (runs.empty() || runs.back() != items[i].group) runs.push_back(items[i].group);
      }
      EXPECT_EQ(std::set<int64_t>(runs.begin(), runs.end()).size(), runs.size());
      for (const int64_t group : runs) places[group].push_back(static_cast<int>(b));
    }
    EXPECT_THAT(seen, ::testing::Each(1));
    for (const auto& [group, members] : of_group) {
      const bool fits = Of(items, members).rows <= cap;
      cut += fits ? 0 : 1;
      EXPECT_EQ(places[group].size() == 1, fits);
      EXPECT_EQ(places[group].back() - places[group].front() + 1, std::ssize(places[group]))
          << "pieces come one after another";
    }
    const auto plain = OneAfterTheOther(items, cap);
    EXPECT_LE(batches->size(), plain.size());
    all += Dearest(items, *batches);
    plain_all += Dearest(items, plain);
    fewer += batches->size() < plain.size() ? 1 : 0;
    if (batches->size() != plain.size()) continue;
    ++compared;
    dearest += Dearest(items, *batches);
    plain_dearest += Dearest(items, plain);
  }
  std::printf("%d of %d batches in fewer micro-batches; %d groups cut\n", fewer, kTrials, cut);
  std::printf("the dearest costs %.3f of the plain way's where they are as many, %.3f over all\n",
              dearest / plain_dearest, all / plain_all);
  EXPECT_GT(cut, 50);
  EXPECT_GT(compared, 50);
  EXPECT_GT(fewer, kTrials / 4);
  EXPECT_LT(dearest, 0.97 * plain_dearest);
}

TEST(PackingTest, WhereTheRowsAreEqualTheCostsAreBalanced) {
  // Four groups of a full half each: one dear pair would cost 16 of 22.
  const std::vector<PackItem> items = {
      {0, 0, 10, 0, 8}, {1, 0, 10, 0, 8}, {2, 0, 10, 0, 3}, {3, 0, 10, 0, 3}};
  EXPECT_THAT(*PackMicroBatches(items, 20), ElementsAre(ElementsAre(0, 3), ElementsAre(1, 2)));
  EXPECT_EQ(Dearest(items, OneAfterTheOther(items, 20)), 16) << "the control";
}

}  // namespace
}  // namespace palimpsest::rl
