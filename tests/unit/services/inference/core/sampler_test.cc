#include "services/inference/core/sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/base/random.h"

namespace palimpsest::inference {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

TEST(SampleTokenTest, GreedyTakesTheLikeliestAndTiesGoToTheLowerId) {
  const Draw draw = SampleToken(kLogits, {.temperature = 0}, {}, {}, 0.9);
  EXPECT_EQ(draw.token, 1);
  double sum = 0;
  for (float x : kLogits) sum += std::exp(x);
  EXPECT_NEAR(draw.logprob, 3.0 - std::log(sum), 1e-6);
}

TEST(SampleTokenTest, FrequenciesFollowTheTemperedSoftmax) {
  std::vector<int> hits(kLogits.size());
  const int draws = 40000;
  double total = 0;
  for (float x : kLogits) total += std::exp(x / 2);
  for (int i = 0; i < draws; ++i)
    ++hits[SampleToken(kLogits, {.temperature = 2}, {}, {}, Uniform01(5, 0, i)).token];
  for (size_t id = 0; id < hits.size(); ++id)
    EXPECT_NEAR(hits[id] / double{draws}, std::exp(kLogits[id] / 2) / total, 0.01);
}

TEST(SampleTokenTest, RecordedLogProbabilityIsBeforeTruncationAndPenalties) {
  const Draw plain = SampleToken(kLogits, {}, {}, {}, 0.0);
  const Draw cut = SampleToken(kLogits, {.top_k = 1}, {}, {}, 0.0);
  double sum = 0;
  for (float x : kLogits) sum += std::exp(x);
  EXPECT_NEAR(cut.logprob, 3.0 - std::log(sum), 1e-6);
  EXPECT_NEAR(plain.logprob, 1.0 - std::log(sum), 1e-6);
}

TEST(SampleTokenTest, TheLikeliestAreToldWithTheirLogProbabilityTiesToTheLowerId) {
  const Draw draw = SampleToken(kLogits, {.top_k = 1, .top_logprobs = 4}, {}, {}, 0.5);
  double sum = 0;
  for (float x : kLogits) sum += std::exp(x);
  EXPECT_EQ(draw.top.ids, (std::vector<int32_t>{1, 3, 2, 0}));
  for (size_t i = 0; i < draw.top.ids.size(); ++i)
    EXPECT_NEAR(draw.top.logprobs[i], kLogits[draw.top.ids[i]] - std::log(sum), 1e-6);
  EXPECT_EQ(SampleToken(kLogits, {.top_logprobs = 100}, {}, {}, 0).top.ids.size(), kLogits.size());
  EXPECT_TRUE(SampleToken(kLogits, {.top_logprobs = 0}, {}, {}, 0).top.ids.empty());
}

TEST(SampleTokenTest, TruncationsKeepTheRightTokens) {
  for (int i = 0; i < 200; ++i) {
    const double u = Uniform01(9, 0, i);
    EXPECT_EQ(SampleToken(kLogits, {.top_k = 1}, {}, {}, u).token, 1);
    const int32_t by_p =
        SampleToken(kLogits, {.top_p = 0.5}, {}, {}, u).token;  // 1 has .38, 3 crosses .5
    EXPECT_TRUE(by_p == 1 || by_p == 3);
    const int32_t by_min =
        SampleToken(kLogits, {.min_p = 0.3}, {}, {}, u).token;  // e^-1 = .37 stays, e^-2 goes
    EXPECT_TRUE(by_min == 1 || by_min == 2 || by_min == 3);
  }
}

TEST(SampleTokenTest, PenaltiesAndBiasMoveTheChoice) {
  const std::map<int32_t, int> seen = {{1, 2}, {3, 1}};
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 0, .frequency_penalty = 1}, seen, {}, 0).token, 2);
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 0, .presence_penalty = 1.5}, seen, {}, 0).token,
            2);
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 0, .repetition_penalty = 2}, {}, seen, 0).token,
            2);
  EXPECT_EQ(SampleToken(kLogits, {.temperature = 0, .logit_bias = {{4, 50.0f}}}, {}, {}, 0).token,
            4);
}

}  // namespace
}  // namespace palimpsest::inference
