#include "common/rl/policy_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/random.h"

namespace palimpsest::rl {
namespace {

using ::testing::HasSubstr;

constexpr PolicyLossOptions kOptions = {.clip_low = 0.2, .clip_high = 0.3, .truncate_ratio = 2};

// One token with ratio r, advantage a and weight w.
PolicyLossResult One(double ratio, double advantage, double weight = 1) {
  return PolicyLoss(kOptions, std::vector{std::log(ratio) - 1}, std::vector{-1.0},
                    std::vector{advantage}, std::vector{weight});
}

TEST(PolicyLossTest, OnPolicyTokensPushWithTheirAdvantage) {
  const PolicyLossResult r = One(1, 0.7, 0.5);
  EXPECT_DOUBLE_EQ(r.loss, -0.35);
  EXPECT_DOUBLE_EQ(r.gradient[0], -0.35);
}

TEST(PolicyLossTest, ATokenThatMovedFarEnoughPushesNoFurther) {
  EXPECT_EQ(One(1.4, 1).gradient[0], 0);  // good and already likelier
  EXPECT_NEAR(One(1.4, 1).loss, -1.3, 1e-15);
  EXPECT_EQ(One(0.7, -1).gradient[0], 0);  // bad and already less likely
  EXPECT_NEAR(One(0.7, -1).loss, 0.8, 1e-15);
  EXPECT_EQ(One(0.7, -1).sums.clipped, 1);
  EXPECT_NEAR(One(0.7, 1).gradient[0], -0.7, 1e-15);  // good but less likely: still wanted
  EXPECT_NEAR(One(1.4, -1).gradient[0], 1.4, 1e-15);
}

TEST(PolicyLossTest, TheRatioOfABadTokenIsCutAtTheCapAndItsGradientStays) {
  const PolicyLossResult r = One(50, -1);
  EXPECT_DOUBLE_EQ(r.loss, 2);
  EXPECT_DOUBLE_EQ(r.gradient[0], 2);
  EXPECT_EQ(r.sums.truncated, 1);
  EXPECT_EQ(r.sums.clipped, 0);
}

TEST(PolicyLossTest, TheGradientIsTheDerivativeWhereverNothingIsCut) {
  RandomStream random(3);
  std::vector<double> now, recorded, advantages, weights;
  for (int i = 0; i < 200; ++i) {
    recorded.push_back(-3 * random.Uniform());
    now.push_back(recorded.back() + 0.6 * (random.Uniform() - 0.5));
    advantages.push_back(random.Normal());
    weights.push_back(random.Uniform());
  }
  const PolicyLossResult r = PolicyLoss(kOptions, now, recorded, advantages, weights);
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < now.size(); ++i) {
    std::vector<double> up = now, down = now;
    up[i] += kStep;
    down[i] -= kStep;
    const double slope = (PolicyLoss(kOptions, up, recorded, advantages, weights).loss -
                          PolicyLoss(kOptions, down, recorded, advantages, weights).loss) /
                         (2 * kStep);
    EXPECT_NEAR(r.gradient[i], slope, 1e-7) << i;
  }
}

TEST(PolicyLossTest, MicroBatchesAddUpToTheBatch) {
  const std::vector<double> now = {-1, -2, -0.5, -3}, recorded = {-1.2, -1.1, -0.9, -2},
                            advantages = {1, -1, 0.5, -2}, weights = {0.1, 0.2, 0.3, 0.4};
  const PolicyLossResult whole = PolicyLoss(kOptions, now, recorded, advantages, weights);
  double loss = 0;
  RatioSums sums;
  for (size_t i = 0; i < now.size(); ++i) {
    const PolicyLossResult part =
        PolicyLoss(kOptions, std::span(now).subspan(i, 1), std::span(recorded).subspan(i, 1),
                   std::span(advantages).subspan(i, 1), std::span(weights).subspan(i, 1));
    loss += part.loss;
    sums.Add(part.sums);
    EXPECT_EQ(part.gradient[0], whole.gradient[i]);
  }
  EXPECT_NEAR(loss, whole.loss, 1e-15);
  EXPECT_NEAR(sums.EffectiveShare(), whole.sums.EffectiveShare(), 1e-15);
  EXPECT_EQ(sums.clipped, whole.sums.clipped);
}

TEST(PolicyLossTest, TheEffectiveShareIsOneOnPolicyAndFallsWithOneHeavyToken) {
  RatioSums sums{.tokens = 4, .ratio = 4, .squared_ratio = 4};
  EXPECT_EQ(sums.EffectiveShare(), 1);
  sums.Add({.tokens = 1, .ratio = 100, .squared_ratio = 1e4});
  EXPECT_LT(sums.EffectiveShare(), 0.25);
}

TEST(PolicyLossTest, ACapInsideTheClipIsRefused) {
  EXPECT_TRUE(Validate(PolicyLossOptions{}).ok());
  EXPECT_THAT(std::string(Validate(PolicyLossOptions{.truncate_ratio = 1}).message()),
              HasSubstr("truncate_ratio=1"));
  EXPECT_FALSE(Validate(PolicyLossOptions{.clip_low = std::nan("")}).ok());
}

}  // namespace
}  // namespace palimpsest::rl
