#include "common/rl/token_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace palimpsest::rl {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

const std::vector<double> kItems = {1, 2};
const std::vector<int64_t> kTokensOf = {1, 4};

TEST(TokenWeightsTest, EachAggregationIsItsEquation) {
  EXPECT_THAT(TokenWeights({}, kItems, kTokensOf), ElementsAre(1 / 5.0, 2 / 5.0));
  EXPECT_THAT(TokenWeights({.kind = Aggregation::kSequenceMean}, kItems, kTokensOf),
              ElementsAre(1 / 2.0, 2 / 8.0));
  EXPECT_THAT(TokenWeights({.kind = Aggregation::kConstant, .divisor = 10}, kItems, kTokensOf),
              ElementsAre(1 / 20.0, 2 / 20.0));
  // 1^-1/2 / (1 + 2) and 2 * 4^-1/2 / (1 + 2)
  EXPECT_THAT(TokenWeights({.kind = Aggregation::kLengthWeighted, .power = 0.5}, kItems, kTokensOf),
              ElementsAre(DoubleNear(1 / 3.0, 1e-15), DoubleNear(1 / 3.0, 1e-15)));
}

TEST(TokenWeightsTest, LengthWeightedReachesFromTheTokenMeanToTheSequenceMean) {
  const auto weighted = [&](double power) {
    return TokenWeights({.kind = Aggregation::kLengthWeighted, .power = power}, kItems, kTokensOf);
  };
  EXPECT_EQ(weighted(0), TokenWeights({}, kItems, kTokensOf));
  EXPECT_EQ(weighted(1), TokenWeights({.kind = Aggregation::kSequenceMean}, kItems, kTokensOf));
}

TEST(TokenWeightsTest, OfEqualItemsTheMeansAddUpToOne) {
  for (const AggregationOptions& o :
       {AggregationOptions{}, AggregationOptions{.kind = Aggregation::kSequenceMean},
        AggregationOptions{.kind = Aggregation::kLengthWeighted, .power = 0.3}}) {
    const std::vector<int64_t> lengths = {3, 1, 7, 7};
    const std::vector<double> weights = TokenWeights(o, std::vector<double>(4, 1.0), lengths);
    double sum = 0;
    for (size_t i = 0; i < 4; ++i) sum += weights[i] * static_cast<double>(lengths[i]);
    EXPECT_NEAR(sum, 1, 1e-15);
  }
}

}  // namespace
}  // namespace palimpsest::rl
