#include "services/inference/core/prefix_tree.h"

#include <gtest/gtest.h>

#include "common/base/random.h"

namespace palimpsest::inference {
namespace {

std::vector<int32_t> Tokens(std::initializer_list<int> blocks) {
  std::vector<int32_t> tokens;
  for (int b : blocks) tokens.insert(tokens.end(), kPageSlots, b);
  return tokens;
}

std::vector<int32_t> Take(PagePool& pool, int n) {
  std::vector<int32_t> pages;
  for (int i = 0; i < n; ++i) pages.push_back(pool.Take());
  return pages;
}

TEST(PrefixTreeTest, FindsTheLongestBeginningWhateverStandsBehind) {
  PagePool pool(8);
  PrefixTree tree(pool);
  const std::vector<int32_t> pages = Take(pool, 3);
  tree.Insert(Tokens({1, 2, 3}), pages);
  EXPECT_EQ(tree.Find(Tokens({1, 2, 3, 4}), 9), pages);
  EXPECT_EQ(tree.Find(Tokens({1, 2, 9}), 9).size(), 2u);
  EXPECT_EQ(tree.Find(Tokens({1, 2, 3}), 1).size(), 1u);
  EXPECT_TRUE(tree.Find(Tokens({2, 3}), 9).empty());  // the same tokens behind others are others
  std::vector<int32_t> part = Tokens({1, 2});
  part.pop_back();
  EXPECT_EQ(tree.Find(part, 9).size(), 1u);  // a page that is not full is not known
}

TEST(PrefixTreeTest, ThePagesAreHeldUntilTheyAreLostLeavesFirstOldestFirst) {
  PagePool pool(8);
  PrefixTree tree(pool);
  const std::vector<int32_t> a = Take(pool, 3), b = Take(pool, 3);
  tree.Insert(Tokens({1, 2, 3}), a);
  tree.Insert(Tokens({1, 2, 4}), b);  // 1 and 2 are known: only the last page is new
  EXPECT_EQ(tree.size(), 4);
  for (int32_t page : a) pool.Release(page);
  for (int32_t page : b) pool.Release(page);
  EXPECT_EQ(pool.free_pages(), 4);
  EXPECT_EQ(pool.idle_pages(), 4);
  tree.Find(Tokens({1, 2, 3}), 9);
  ASSERT_TRUE(tree.LoseOldest());  // 4
  EXPECT_EQ(tree.Find(Tokens({1, 2, 4}), 9).size(), 2u);
  EXPECT_EQ(tree.Find(Tokens({1, 2, 3}), 9).size(), 3u);
  ASSERT_TRUE(tree.LoseOldest());  // 3
  EXPECT_EQ(tree.Find(Tokens({1, 2, 3}), 9).size(), 2u);
  tree.Clear();
  EXPECT_FALSE(tree.LoseOldest());
  EXPECT_EQ(pool.free_pages(), 8);
}

// Against the plain list of all that was inserted, with losses in between: what is found is always
// a beginning that was inserted, in the page that got it first, and the pool's books are right.
TEST(PrefixTreeTest, AgreesWithAListUnderRandomUse) {
  PagePool pool(4000);
  PrefixTree tree(pool);
  RandomStream random(3);
  std::map<std::vector<int32_t>, int32_t> known;  // by the whole beginning
  for (int i = 0; i < 600; ++i) {
    std::vector<int32_t> tokens;
    for (int64_t n = 1 + random.Below(4); n > 0; --n)
      tokens.insert(tokens.end(), kPageSlots, static_cast<int32_t>(random.Below(3)));
    const auto blocks = static_cast<int>(tokens.size()) / kPageSlots;
    if (random.Below(3) == 0 && tree.size() > 0) tree.LoseOldest();
    if (random.Below(2) == 0) {
      const std::vector<int32_t> pages = Take(pool, blocks);
      const size_t had = tree.Find(tokens, 99).size();
      tree.Insert(tokens, pages);
      for (size_t b = had; b < static_cast<size_t>(blocks); ++b)
        known[{tokens.begin(), tokens.begin() + (static_cast<int>(b) + 1) * kPageSlots}] = pages[b];
      for (int32_t page : pages) pool.Release(page);
    }
    const std::vector<int32_t> found = tree.Find(tokens, 99);
    for (size_t b = 0; b < found.size(); ++b) {
      const auto it =
          known.find({tokens.begin(), tokens.begin() + (static_cast<int>(b) + 1) * kPageSlots});
      ASSERT_NE(it, known.end());
      EXPECT_EQ(it->second, found[b]);
    }
    const absl::Status status = pool.Check({});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(pool.idle_pages(), tree.size());
  }
}

}  // namespace
}  // namespace palimpsest::inference
