#include "common/rl/advantages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace palimpsest::rl {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr AdvantageKind kAll[] = {AdvantageKind::kGroupStd, AdvantageKind::kGroupMean,
                                  AdvantageKind::kLeaveOneOut, AdvantageKind::kLengthWeighted};

const std::vector<double> kRewards = {1, 3, 2, 2};
const std::vector<int64_t> kLengths = {10, 30, 20, 20};

TEST(GroupAdvantagesTest, RewardsAreMeasuredInPopulationDeviationsFromTheMean) {
  // mean 2, variance (1 + 1 + 0 + 0) / 4
  const double std = std::sqrt(0.5);
  EXPECT_THAT(GroupAdvantages({.epsilon = 0}, kRewards, kLengths),
              ElementsAre(DoubleNear(-1 / std, 1e-15), DoubleNear(1 / std, 1e-15), 0, 0));
  EXPECT_NEAR(GroupAdvantages({.epsilon = 0.1}, kRewards, kLengths)[1], 1 / (std + 0.1), 1e-15);
}

TEST(GroupAdvantagesTest, EachKindIsItsEquation) {
  const auto of = [](AdvantageKind kind) {
    return GroupAdvantages({.kind = kind}, kRewards, kLengths);
  };
  EXPECT_THAT(of(AdvantageKind::kGroupMean), ElementsAre(-1, 1, 0, 0));
  const std::vector<double> loo = of(AdvantageKind::kLeaveOneOut);
  for (size_t i = 0; i < 4; ++i) {
    double others = 0;
    for (size_t j = 0; j < 4; ++j) others += j == i ? 0 : kRewards[j] / 3;
    EXPECT_NEAR(loo[i], kRewards[i] - others, 1e-15) << i;
  }
  // baseline (10 + 90 + 40 + 40) / 80
  EXPECT_THAT(of(AdvantageKind::kLengthWeighted), ElementsAre(-1.25, 0.75, -0.25, -0.25));
}

TEST(GroupAdvantagesTest, WithTheLengthWeightedBaselineTheTokensOfAGroupPushToZeroInSum) {
  const std::vector<double> a =
      GroupAdvantages({.kind = AdvantageKind::kLengthWeighted}, kRewards, kLengths);
  const std::vector<double> plain =
      GroupAdvantages({.kind = AdvantageKind::kGroupMean}, kRewards, kLengths);
  double tokens = 0, of_the_mean = 0;
  for (size_t i = 0; i < 4; ++i) {
    tokens += a[i] * static_cast<double>(kLengths[i]);
    of_the_mean += plain[i] * static_cast<double>(kLengths[i]);
  }
  EXPECT_NEAR(tokens, 0, 1e-13);
  EXPECT_GT(of_the_mean, 1) << "the plain mean favours the long ones";
}

TEST(GroupAdvantagesTest, EqualRewardsTeachExactlyNothing) {
  for (const AdvantageKind kind : kAll) {
    const AdvantageOptions o = {.kind = kind, .epsilon = 0};
    EXPECT_THAT(GroupAdvantages(o, std::vector(7, 0.1), std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}),
                Each(0.0));
    EXPECT_THAT(GroupAdvantages(o, std::vector{5.0}, std::vector<int64_t>{3}), ElementsAre(0.0));
    EXPECT_THAT(GroupAdvantages(o, {}, {}), IsEmpty());
  }
}

TEST(OverlongTest, ThePenaltyRisesInALineOverTheStretchBeforeTheLimit) {
  const OverlongOptions o = {.limit = 100, .stretch = 20, .penalty = 0.5};
  EXPECT_EQ(OverlongPenalty(o, 0), 0);
  EXPECT_EQ(OverlongPenalty(o, 80), 0);
  EXPECT_DOUBLE_EQ(OverlongPenalty(o, 85), -0.125);
  EXPECT_DOUBLE_EQ(OverlongPenalty(o, 100), -0.5);
  EXPECT_DOUBLE_EQ(OverlongPenalty(o, 1000), -0.5);
  EXPECT_EQ(OverlongPenalty({}, 1000), 0);
}

TEST(OverlongTest, WhatCannotWorkIsRefusedByItsField) {
  const auto why = [](const OverlongOptions& o) { return std::string(Validate(o).message()); };
  EXPECT_TRUE(Validate(OverlongOptions{}).ok());
  EXPECT_TRUE(Validate(OverlongOptions{.limit = 5, .stretch = 5}).ok());
  EXPECT_THAT(why({.limit = -1}), HasSubstr("limit=-1"));
  EXPECT_THAT(why({.limit = 5}), HasSubstr("stretch=0"));
  EXPECT_THAT(why({.stretch = 5}), HasSubstr("stretch=5"));
  EXPECT_THAT(why({.limit = 5, .stretch = 5, .penalty = 0}), HasSubstr("penalty=0"));
}

}  // namespace
}  // namespace palimpsest::rl
