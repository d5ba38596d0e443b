#include "services/inference/core/page_pool.h"

#include <gtest/gtest.h>

#include <random>

namespace palimpsest::inference {
namespace {

using Tables = std::vector<std::vector<int32_t>>;

absl::Status Check(const PagePool& pool, const Tables& tables) {
  std::vector<std::span<const int32_t>> spans(tables.begin(), tables.end());
  return pool.Check(spans);
}

TEST(PagePoolTest, RandomTakesSharesAndReleasesLeaveEveryPageWithItsHolders) {
  std::mt19937 rng(1);
  PagePool pool(64);
  Tables tables(6);
  for (int step = 0; step < 20000; ++step) {
    std::vector<int32_t>& table = tables[rng() % tables.size()];
    switch (rng() % 4) {
      case 0:
        if (pool.free_pages() > 0) table.push_back(pool.Take());
        break;
      case 1:
        if (!table.empty()) pool.Release(table.back()), table.pop_back();
        break;
      case 2: {  // a fork in the place of another
        std::vector<int32_t>& other = tables[rng() % tables.size()];
        if (&other == &table) break;
        for (int32_t page : other) pool.Release(page);
        other = table;
        for (int32_t page : other) pool.Share(page);
        break;
      }
      case 3:
        if (table.empty()) break;
        EXPECT_EQ(pool.Shared(table.front()),
                  std::count_if(tables.begin(), tables.end(), [&](const auto& t) {
                    return std::find(t.begin(), t.end(), table.front()) != t.end();
                  }) > 1);
        break;
    }
    const absl::Status status = Check(pool, tables);
    ASSERT_TRUE(status.ok()) << status << " at step " << step;
  }
  for (auto& table : tables) {
    for (int32_t page : table) pool.Release(page);
    table.clear();
  }
  EXPECT_EQ(pool.free_pages(), pool.pages());
}

TEST(PagePoolTest, AKeptPageIsReadOnlyAndStaysUntilItIsDropped) {
  PagePool pool(2);
  const int32_t page = pool.Take();
  EXPECT_FALSE(pool.Shared(page));
  pool.Keep(page);
  EXPECT_TRUE(pool.Shared(page));
  EXPECT_EQ(pool.idle_pages(), 0);
  pool.Release(page);
  EXPECT_EQ(pool.idle_pages(), 1);
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_TRUE(Check(pool, {}).ok());
  pool.Share(page);
  EXPECT_EQ(pool.idle_pages(), 0);
  EXPECT_TRUE(Check(pool, {{page}}).ok());
  pool.Drop(page);
  EXPECT_FALSE(pool.Shared(page));
  EXPECT_EQ(pool.free_pages(), 1);  // its holder still has it
  pool.Release(page);
  EXPECT_EQ(pool.free_pages(), 2);
}

TEST(PagePoolTest, ALostAndAForgottenPageAreFound) {
  PagePool pool(4);
  const int32_t page = pool.Take();
  EXPECT_TRUE(Check(pool, {{page}}).ok());
  EXPECT_TRUE(absl::IsInternal(Check(pool, {})));                // nobody has it
  EXPECT_TRUE(absl::IsInternal(Check(pool, {{page}, {page}})));  // twice, counted once
  EXPECT_TRUE(absl::IsInternal(Check(pool, {{page, 3}})));       // a free one in a table
  EXPECT_TRUE(absl::IsInternal(Check(pool, {{page, 4}})));       // there is none
}

TEST(PagePoolTest, SlotsArePaidInWholePages) {
  EXPECT_EQ(PagesFor(0), 0);
  EXPECT_EQ(PagesFor(1), 1);
  EXPECT_EQ(PagesFor(16), 1);
  EXPECT_EQ(PagesFor(17), 2);
}

}  // namespace
}  // namespace palimpsest::inference
