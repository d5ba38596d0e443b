#include "tools/eval/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "common/base/random.h"

namespace palimpsest::tools::eval {
namespace {

// Of all k-subsets of n answers, of which the first c are right, the share that holds a right one.
double ShareOfSubsets(int n, int c, int k) {
  int all = 0, hit = 0;
  for (unsigned set = 0; set < (1U << n); ++set) {
    if (std::popcount(set) != k) continue;
    ++all;
    if ((set & ((1U << c) - 1)) != 0) ++hit;
  }
  return static_cast<double>(hit) / all;
}

TEST(PassAtKTest, IsTheShareOfSubsetsThatHoldARightAnswer) {
  for (int n = 1; n <= 9; ++n) {
    for (int c = 0; c <= n; ++c) {
      for (int k = 1; k <= n; ++k) {
        EXPECT_NEAR(PassAtK(n, c, k), ShareOfSubsets(n, c, k), 1e-12) << n << " " << c << " " << k;
      }
    }
  }
}

TEST(PassAtKTest, LargeNumbersNeitherOverflowNorCancel) {
  EXPECT_DOUBLE_EQ(PassAtK(1000, 1, 1), 0.001);
  EXPECT_NEAR(PassAtK(1000, 3, 500), 1 - (500. * 499 * 498) / (1000. * 999 * 998), 1e-12);
  EXPECT_EQ(PassAtK(1000, 0, 1000), 0);
}

TEST(FairCoinTest, IsExact) {
  EXPECT_NEAR(FairCoinTest(10, 8), 2 * (1 + 10 + 45) / 1024., 1e-12);
  EXPECT_NEAR(FairCoinTest(10, 2), FairCoinTest(10, 8), 1e-15);
  EXPECT_NEAR(FairCoinTest(6, 0), 2 / 64., 1e-12);
  EXPECT_EQ(FairCoinTest(10, 5), 1);
  EXPECT_EQ(FairCoinTest(0, 0), 1);
  EXPECT_NEAR(FairCoinTest(10000, 5098), 0.0514, 1e-3);  // z = 1.95 with the continuity correction
}

TEST(SignTestTest, EqualOnesSayNothing) {
  const std::vector<double> differences = {1, 0, -0.5, 0.25, 0, 2};
  const SignTest test = TestSigns(differences);
  EXPECT_EQ(test.better, 3);
  EXPECT_EQ(test.worse, 1);
  EXPECT_EQ(test.equal, 2);
  EXPECT_NEAR(test.p, 2 * (1 + 4) / 16., 1e-12);
}

TEST(QuantileTest, Interpolates) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_EQ(Quantile(values, 0), 1);
  EXPECT_EQ(Quantile(values, 1), 8);
  EXPECT_EQ(Quantile(values, 0.5), 3);
  EXPECT_NEAR(Quantile(values, 0.9), 4 + 0.7 * 4, 1e-12);
  EXPECT_EQ(Quantile(std::vector<double>{5}, 0.3), 5);
}

std::vector<Part> Parts(const std::vector<double>& values) {
  std::vector<Part> parts;
  for (const double value : values) parts.push_back({value, 1});
  return parts;
}

TEST(BootstrapTest, IntervalOfAFewPromptsIsThatOfAllTheirResamples) {
  // The mean of three draws from {0, 0, 1} is 0 with 8/27 and 1 with 1/27: both above 2.5 %.
  const Estimate three = *Bootstrap(std::vector<int>(3), 4000, 1).Mean(Parts({0, 0, 1}));
  EXPECT_NEAR(three.value, 1 / 3., 1e-12);
  EXPECT_EQ(three.low, 0);
  EXPECT_EQ(three.high, 1);
  EXPECT_EQ(three.prompts, 3);
  // Of six, one right: 6 draws miss it with 0.335; four hits or more come with 0.0087, three or
  // more with 0.062.
  const Estimate six = *Bootstrap(std::vector<int>(6), 4000, 1).Mean(Parts({1, 0, 0, 0, 0, 0}));
  EXPECT_EQ(six.low, 0);
  EXPECT_DOUBLE_EQ(six.high, 0.5);
}

TEST(BootstrapTest, IntervalOfManyPromptsIsThatOfTheNormalDistribution) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 4 == 0 ? 1 : 0);
  const Estimate e = *Bootstrap(std::vector<int>(400), 2000, 7).Mean(Parts(values));
  const double half = 1.96 * std::sqrt(0.25 * 0.75 / 400);
  EXPECT_DOUBLE_EQ(e.value, 0.25);
  EXPECT_NEAR(e.low, 0.25 - half, 0.15 * half);
  EXPECT_NEAR(e.high, 0.25 + half, 0.15 * half);
}

TEST(BootstrapTest, PromptsAreDrawnWithinTheirStratum) {
  std::vector<double> values(40, 0.0);
  std::fill(values.begin() + 20, values.end(), 1.0);
  std::vector<int> strata(40, 0);
  std::fill(strata.begin() + 20, strata.end(), 1);
  const Estimate apart = *Bootstrap(strata, 500, 1).Mean(Parts(values));
  EXPECT_EQ(apart.low, 0.5);
  EXPECT_EQ(apart.high, 0.5);
  const Estimate together = *Bootstrap(std::vector<int>(40), 500, 1).Mean(Parts(values));
  EXPECT_LT(together.low, 0.45);  // the control
  EXPECT_GT(together.high, 0.55);
}

TEST(BootstrapTest, CountsWeighAndPromptsWithoutAPartAreNoZeros) {
  const std::vector<Part> parts = {{3, 4}, {0, 0}, {1, 1}};
  const Estimate e = *Bootstrap(std::vector<int>(3), 500, 1).Mean(parts);
  EXPECT_DOUBLE_EQ(e.value, 4 / 5.);
  EXPECT_EQ(e.prompts, 2);
  EXPECT_DOUBLE_EQ(e.low, 3 / 4.);
  EXPECT_DOUBLE_EQ(e.high, 1);
  EXPECT_FALSE(Bootstrap(std::vector<int>(2), 10, 1).Mean(std::vector<Part>(2)).has_value());
}

TEST(BootstrapTest, TheSameSeedGivesTheSameInterval) {
  std::vector<double> values;
  for (int i = 0; i < 30; ++i) values.push_back(Uniform01(3, 0, static_cast<uint64_t>(i)));
  const std::vector<int> strata(30);
  const Estimate a = *Bootstrap(strata, 200, 5).Mean(Parts(values));
  const Estimate b = *Bootstrap(strata, 200, 5).Mean(Parts(values));
  const Estimate other = *Bootstrap(strata, 200, 6).Mean(Parts(values));
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, other.low);
}

}  // namespace
}  // namespace palimpsest::tools::eval
