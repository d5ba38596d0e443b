#include "common/rl/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

TEST(PackingTest, EveryItemIsInExactlyOneMicroBatchAndNoneExceedsTheCap) {
  RandomStream random(5);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<PackItem> items;
    for (int i = 0; i < 40; ++i) {
      const int64_t group = random.Below(6);
      const int32_t prompt = static_cast<int32_t>(3 * group);
      items.push_back({group, prompt, prompt + static_cast<int32_t>(random.Between(1, 20))});
    }
    const int64_t cap = random.Between(35, 120);
    const auto batches = PackMicroBatches(items, cap);
    ASSERT_TRUE(batches.ok());
    std::vector<int> seen(items.size(), 0);
    for (const std::vector<int>& batch : *batches) {
      int64_t rows = 0;
      std::set<int64_t> prompts;
      for (int i : batch) {
        ++seen[i];
        rows += items[i].rows - items[i].prompt_tokens;
        if (prompts.insert(items[i].group).second) rows += items[i].prompt_tokens;
      }
      EXPECT_LE(rows, cap);
      EXPECT_FALSE(batch.empty());
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 40);
  }
}

}  // namespace
}  // namespace palimpsest::rl
