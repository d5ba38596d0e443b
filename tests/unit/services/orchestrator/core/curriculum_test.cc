#include "services/orchestrator/core/curriculum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace palimpsest::orchestrator {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

TEST(TaskSharesTest, ATaskThatIsSolvedHalfAsOftenGetsTwiceThePrompts) {
  const std::vector<TaskRecord> records = {{98, 79}, {98, 39}};  // rates 0.8 and 0.4
  EXPECT_THAT(TaskShares({}, records),
              ElementsAre(DoubleNear(1 / 3.0, 1e-12), DoubleNear(2 / 3.0, 1e-12)));
  EXPECT_THAT(TaskShares({}, std::vector<TaskRecord>(4)), testing::Each(0.25)) << "nothing known";
}

TEST(TaskSharesTest, HardAndEasyTasksShareASmallPart) {
  const TaskWeights weights{.hard = 0.05, .easy = 0.9, .pool_share = 0.2};
  const std::vector<TaskRecord> records = {{98, 49}, {98, 0}, {98, 98}, {98, 24}};
  const std::vector<double> shares = TaskShares(weights, records);
  EXPECT_NEAR(shares[1], 0.1, 1e-12);
  EXPECT_NEAR(shares[2], 0.1, 1e-12);
  EXPECT_NEAR(shares[3], 2 * shares[0], 1e-12);  // rates 0.5 and 0.25
  EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 1, 1e-12);
  // With nobody else the pool is everything.
  EXPECT_THAT(TaskShares(weights, std::vector<TaskRecord>{{98, 0}, {98, 98}}),
              ElementsAre(0.5, 0.5));
}

// Six groups of a small window: without its share being bounded, the hard one would take most.
TEST(TaskSharesTest, AHardTaskIsKnownAfterFewRolloutsAndAnUnknownOneIsNot) {
  const std::vector<double> known = TaskShares({}, std::vector<TaskRecord>{{8, 0}, {40, 20}});
  EXPECT_NEAR(known[0], 0.1, 1e-12);
  const std::vector<double> unknown = TaskShares({}, std::vector<TaskRecord>{{7, 0}, {40, 20}});
  EXPECT_NEAR(unknown[0], 9 / 11.0, 1e-12);  // rates 1/9 and 1/2
}

TEST(PickTaskTest, ADrawFallsOnATaskAsOftenAsItsShare) {
  const std::vector<double> shares = {0.25, 0, 0.75};
  EXPECT_EQ(PickTask(shares, 0), 0u);
  EXPECT_EQ(PickTask(shares, 0.2499), 0u);
  EXPECT_EQ(PickTask(shares, 0.25), 2u);
  EXPECT_EQ(PickTask(shares, 0.9999999), 2u);
  EXPECT_EQ(PickTask(std::vector<double>{1}, 0.5), 0u);
}

TEST(GroupFilterTest, GroupsWithoutAnythingToLearnAreLeftOutWhereThatIsAsked) {
  const GroupFilter both{.all_solved = true, .none_solved = true};
  EXPECT_EQ(WhyLeftOut(both, 1, std::vector<double>{1, 1, 1}), "all_solved");
  EXPECT_EQ(WhyLeftOut(both, 1, std::vector<double>{0, 0.9}), "none_solved");
  EXPECT_EQ(WhyLeftOut(both, 0.5, std::vector<double>{0, 0.9}), "");
  EXPECT_EQ(WhyLeftOut({}, 1, std::vector<double>{1, 1}), "");
  EXPECT_EQ(WhyLeftOut({.none_solved = true}, 1, std::vector<double>{1, 1}), "");
}

TEST(RepetitionTest, CirclesShowAndPlainTextDoesNot) {
  std::vector<int32_t> plain(100), circle(100);
  std::iota(plain.begin(), plain.end(), 0);
  for (size_t i = 0; i < circle.size(); ++i) circle[i] = static_cast<int32_t>(i % 5);
  EXPECT_EQ(Repetition(plain), 0);
  EXPECT_NEAR(Repetition(circle), 1 - 5 / 93.0, 1e-12);  // 5 different 8-grams of 93
  EXPECT_EQ(Repetition(std::vector<int32_t>{1, 1, 1}), 0);
}

}  // namespace
}  // namespace palimpsest::orchestrator
