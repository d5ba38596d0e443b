#include "common/rl/advantages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace palimpsest::rl {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(GroupAdvantagesTest, RewardsAreMeasuredInPopulationDeviationsFromTheMean) {
  // mean 2, variance (1 + 1 + 0 + 0) / 4
  const std::vector<double> rewards = {1, 3, 2, 2};
  const double std = std::sqrt(0.5);
  EXPECT_THAT(GroupAdvantages(rewards, 0),
              ElementsAre(DoubleNear(-1 / std, 1e-15), DoubleNear(1 / std, 1e-15), 0, 0));
  EXPECT_NEAR(GroupAdvantages(rewards, 0.1)[1], 1 / (std + 0.1), 1e-15);
}

TEST(GroupAdvantagesTest, EqualRewardsTeachExactlyNothing) {
  EXPECT_THAT(GroupAdvantages(std::vector<double>(7, 0.1), 0), Each(0.0));
  EXPECT_THAT(GroupAdvantages(std::vector<double>{5}), ElementsAre(0.0));
  EXPECT_THAT(GroupAdvantages({}), IsEmpty());
}

}  // namespace
}  // namespace palimpsest::rl
