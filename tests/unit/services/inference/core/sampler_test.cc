#include "services/inference/core/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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

// The same in fp64, from the definitions: sort all, cut, walk. `margin`: how near the walk came to
// another answer.
int32_t ReferenceDraw(const std::vector<float>& logits, const rl::SamplingParams& p, double u,
                      double& margin) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<double> weight;
  const double most = *std::max_element(logits.begin(), logits.end());
  for (float x : logits) weight.push_back(std::exp((x - most) / p.temperature));
  margin = 1;
  if (p.top_k > 0 || p.top_p < 1 || p.min_p > 0) {
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return weight[a] > weight[b]; });
    if (p.top_k > 0) ids.resize(std::min<size_t>(p.top_k, ids.size()));
    double total = 0, mass = 0;
    for (int32_t id : ids) total += weight[id];
    size_t keep = 0;
    for (; keep < ids.size() && mass < p.top_p * total && weight[ids[keep]] >= p.min_p; ++keep) {
      mass += weight[ids[keep]];
      margin = std::min(margin, std::abs(mass - p.top_p * total) / total);
      margin = std::min(margin, std::abs(weight[ids[keep]] - p.min_p));
    }
    ids.resize(std::max<size_t>(keep, 1));
  }
  double total = 0, passed = 0;
  for (int32_t id : ids) total += weight[id];
  for (int32_t id : ids) {
    passed += weight[id];
    margin = std::min(margin, std::abs(passed / total - u));
    if (passed > u * total) return id;
  }
  return ids.back();
}

TEST(SampleTokenTest, DrawsAsTheDefinitionInFp64UnlessItIsAHairsbreadth) {
  int compared = 0;
  for (int i = 0; i < 400; ++i) {
    std::vector<float> logits;
    for (int id = 0; id < 1500; ++id)
      logits.push_back(static_cast<float>(8 * Uniform01(3, i, id) - 2));
    rl::SamplingParams p{.temperature = 0.3 + Uniform01(4, i, 0)};
    if (i % 4 == 1) p.top_k = 1 + i % 50;
    if (i % 4 == 2) p.top_p = 0.05 + 0.9 * Uniform01(4, i, 1);
    if (i % 4 == 3) p.min_p = 0.5 * Uniform01(4, i, 2);
    const double u = Uniform01(5, i, 0);
    double margin = 0;
    const int32_t want = ReferenceDraw(logits, p, u, margin);
    if (margin < 1e-5) continue;
    ++compared;
    EXPECT_EQ(SampleToken(logits, p, {}, {}, u).token, want) << i;
  }
  EXPECT_GT(compared, 250);
}

TEST(SampleTokenTest, LogitsThatAreNotFiniteShowInTheLogProbability) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int place : {0, 2, 4}) {
      std::vector<float> logits = kLogits;
      logits[place] = bad;
      EXPECT_FALSE(std::isfinite(SampleToken(logits, {}, {}, {}, 0.5).logprob));
    }
  }
}

}  // namespace
}  // namespace palimpsest::inference
