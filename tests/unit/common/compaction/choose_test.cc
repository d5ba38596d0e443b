#include "common/compaction/choose.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "common/base/random.h"
#include "tests/unit/common/compaction/slow_match.h"

namespace palimpsest::compaction {
namespace {

using ::testing::ElementsAre;
using testing::Matrix;
using testing::Row;

TEST(ChooseTest, TheLargestAreKeptInOrderAndTiesGoToTheLowerIndex) {
  const std::vector<float> importance = {0.5f, 0.9f, 0.5f, 0.1f, 0.5f, 0.9f};
  const std::span<const float> all(importance);
  EXPECT_THAT(LargestByImportance(all, 0), ElementsAre());
  EXPECT_THAT(LargestByImportance(all, 1), ElementsAre(1));
  EXPECT_THAT(LargestByImportance(all, 3), ElementsAre(0, 1, 5));
  EXPECT_THAT(LargestByImportance(all, 4), ElementsAre(0, 1, 2, 5));
  EXPECT_THAT(LargestByImportance(all, 6), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(ChooseTest, RecentAreTheLastOnes) {
  EXPECT_THAT(MostRecent(5, 2), ElementsAre(3, 4));
  EXPECT_THAT(MostRecent(3, 0), ElementsAre());
}

TEST(ChooseTest, ARandomDrawBelongsToItsPositionNotToItsPlaceInTheWindow) {
  std::vector<int32_t> positions(40), later;
  for (int i = 0; i < 40; ++i) positions[i] = 100 + i;
  const auto kept = RandomSlots(positions, 10, 7, 2, 1);
  EXPECT_EQ(kept, RandomSlots(positions, 10, 7, 2, 1));
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(std::set<int32_t>(kept.begin(), kept.end()).size(), 10u);
  EXPECT_NE(kept, RandomSlots(positions, 10, 8, 2, 1));
  EXPECT_NE(kept, RandomSlots(positions, 10, 7, 3, 1));
  EXPECT_NE(kept, RandomSlots(positions, 10, 7, 2, 0));
  // Without a slot that lost, the same slots win.
  std::vector<int32_t> winners, again;
  for (int32_t j : kept) winners.push_back(positions[j]);
  for (int32_t p : positions) {
    const bool won = std::count(winners.begin(), winners.end(), p) > 0;
    if (won || p % 2) later.push_back(p);
  }
  for (int32_t j : RandomSlots(later, 10, 7, 2, 1)) again.push_back(later[j]);
  EXPECT_EQ(again, winners);
}

TEST(ChooseTest, RandomSlotsAreKeptEquallyOften) {
  std::vector<int32_t> positions(20), times(20, 0);
  for (int i = 0; i < 20; ++i) positions[i] = i;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    for (int32_t j : RandomSlots(positions, 5, seed, 0, 0)) ++times[j];
  }
  for (int32_t n : times) EXPECT_NEAR(n, 1000, 150);
}

// Greedy pursuit on the rows themselves: the residual is recomputed from a least-squares solve.
std::vector<int32_t> SlowPursuit(const Matrix& a, int t) {
  const size_t n = a.size(), w = a[0].size();
  std::vector<int32_t> picked;
  Row residual(n, 1.0);
  while (static_cast<int>(picked.size()) < t) {
    int best = -1;
    double best_score = -1;
    for (size_t j = 0; j < w; ++j) {
      if (std::count(picked.begin(), picked.end(), static_cast<int32_t>(j))) continue;
      double dot = 0, norm = 0;
      for (size_t i = 0; i < n; ++i) dot += a[i][j] * residual[i], norm += a[i][j] * a[i][j];
      if (std::abs(dot) / std::sqrt(norm) > best_score)
        best = static_cast<int>(j), best_score = std::abs(dot) / std::sqrt(norm);
    }
    picked.push_back(best);
    const size_t p = picked.size();
    Matrix g(p, Row(p, 0.0)), b(p, Row(1, 0.0));
    for (size_t i = 0; i < n; ++i) {
      for (size_t x = 0; x < p; ++x) {
        b[x][0] += a[i][picked[x]];
        for (size_t y = 0; y < p; ++y) g[x][y] += a[i][picked[x]] * a[i][picked[y]];
      }
    }
    const Matrix x = testing::SlowSolve(g, b);
    for (size_t i = 0; i < n; ++i) {
      residual[i] = 1;
      for (size_t k = 0; k < p; ++k) residual[i] -= a[i][picked[k]] * x[k][0];
    }
  }
  std::sort(picked.begin(), picked.end());
  return picked;
}

TEST(ChooseTest, MatchingPursuitPicksWhatTheNaiveGreedyPicks) {
  RandomStream random(5);
  for (int round = 0; round < 40; ++round) {
    const int n = 30, w = static_cast<int>(random.Between(2, 16));
    const int t = static_cast<int>(random.Between(1, w));
    Matrix scores(n, Row(w));
    for (Row& row : scores) {
      for (double& v : row) v = 2 * random.Normal();
    }
    const Matrix a = testing::SlowSoftmax(scores);
    Row gram(w * w, 0.0), rhs(w, 0.0);
    for (const Row& row : a) {
      for (int j = 0; j < w; ++j) {
        rhs[j] += row[j];
        for (int k = 0; k < w; ++k) gram[j * w + k] += row[j] * row[k];
      }
    }
    // Once all are picked but a few, the target is explained to rounding: compare before that.
    if (t > w / 2 + 1) continue;
    EXPECT_EQ(MatchingPursuit(gram, rhs, w, t), SlowPursuit(a, t));
  }
}

TEST(ChooseTest, MatchingPursuitOfAllSlotsIsAllSlotsEvenWhenColumnsRepeat) {
  const int w = 6;
  const Row gram(w * w, 0.25), rhs(w, 0.5);
  EXPECT_THAT(MatchingPursuit(gram, rhs, w, w), ElementsAre(0, 1, 2, 3, 4, 5));
}

}  // namespace
}  // namespace palimpsest::compaction
