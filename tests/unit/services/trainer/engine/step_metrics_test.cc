#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <vector>

#include "common/model/causal.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// The numbers that a step tells, against ones that were found in another way.
namespace palimpsest::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

using StepMetricsTest = EngineTest;

// Norm of the gradient of the mean of -log p over what is learnt, by plain autograd in fp64, one
// demonstration after the other under causal attention.
double PlainNorm(const EngineOptions& options, const Batch& batch) {
  const auto decoder = WideModel(options, options.run.seed);
  at::Tensor sum = at::zeros({}, at::kDouble);
  int64_t learnt = 0;
  for (const SftItem& item : batch.sft) {
    const auto rows = static_cast<int64_t>(item.ids.size()) - 1;
    const std::vector<int64_t> ids(item.ids.begin(), item.ids.end());
    const at::Tensor tokens = at::tensor(ids, at::kLong);
    model::CausalContext causal({rows});
    const at::Tensor logp =
        decoder->Logits(decoder->Hidden(tokens.narrow(0, 0, rows), at::arange(rows), causal))
            .log_softmax(-1);
    for (int64_t t = 0; t < rows; ++t) {
      if (!item.loss_mask[t + 1]) continue;
      sum = sum - logp[t][ids[t + 1]];
      ++learnt;
    }
  }
  (sum / learnt).backward();
  const std::vector<at::Tensor> gradient = TakeGradients(*decoder);
  return std::sqrt(Dot(gradient, gradient));
}

TEST_F(StepMetricsTest, TheGradientNormIsThatOfPlainAutogradBeforeClipping) {
  EngineOptions options = Options();
  options.optimizer.clip_norm = 1e-3;
  const Batch batch = SftBatch(1, {});
  const double norm = PlainNorm(options, batch);
  EXPECT_GT(norm, 0.1);
  EXPECT_NEAR(Trained(*Open(options), batch).grad_norm / norm, 1, 1e-4);
}

// A clock whose n-th reading after Play is `steps`[n] seconds after the one before.
class ScriptedClock final : public Clock {
 public:
  void Play(std::vector<double> steps) { steps_.assign(steps.begin(), steps.end()); }
  bool played() const { return steps_.empty(); }
  absl::Time Now() override {
    if (!steps_.empty()) {
      now_ += absl::Seconds(steps_.front());
      steps_.pop_front();
    }
    return now_;
  }
  void SleepFor(absl::Duration d) override { now_ += d; }

 private:
  absl::Time now_ = absl::UnixEpoch();
  std::deque<double> steps_;
};

// What lies between two phases is seconds as well; no phase has them.
TEST_F(StepMetricsTest, PhasesAreTheSecondsBetweenTheirEndsAndNoMore) {
  ScriptedClock clock;
  const auto engine = TrainerEngine::Open(Options(), clock);
  ASSERT_TRUE(engine.ok()) << engine.status();
  clock.Play({100, 2, 100, 3, 100, 5});
  EXPECT_THAT(Trained(**engine, SftBatch(1, Budget())).phases,
              ElementsAre(Pair("forward", 2), Pair("backward", 3), Pair("optimizer", 5)));
  EXPECT_TRUE(clock.played());
}

TEST_F(StepMetricsTest, PhasesOfMicroBatchesAddUp) {
  ScriptedClock clock;
  EngineOptions options = Options();
  options.max_tokens_per_micro_batch = 120;  // a prompt and three responses
  const auto engine = TrainerEngine::Open(options, clock);
  ASSERT_TRUE(engine.ok()) << engine.status();
  clock.Play({100, 2, 100, 3, 100, 20, 100, 30, 100, 5});
  EXPECT_THAT(Trained(**engine, SftBatch(1, {})).phases,
              ElementsAre(Pair("forward", 22), Pair("backward", 33), Pair("optimizer", 5)));
  EXPECT_TRUE(clock.played());
}

TEST_F(StepMetricsTest, TheReferenceAndTheOtherViewHavePhasesOfTheirOwn) {
  ScriptedClock clock;
  EngineOptions options = Options();
  options.loss.reference_kl.coefficient = 0.1;
  options.shadow.measure_every = 1;
  const auto engine = TrainerEngine::Open(options, clock);
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE((*engine)->Publish().ok());
  const Batch batch = RlBatch((*engine)->decoder(), 1, Budget());
  clock.Play({100, 7, 100, 11, 100, 2, 100, 3, 100, 5});
  EXPECT_THAT(Trained(**engine, batch).phases,
              ElementsAre(Pair("forward", 2), Pair("backward", 3), Pair("reference", 7),
                          Pair("other_view", 11), Pair("optimizer", 5)));
  EXPECT_TRUE(clock.played());
}

// Held while the second step goes on, and by no step after it.
TEST_F(StepMetricsTest, ThePeakIsThatOfTheStepAndHoldsWhatElseIsResident) {
  constexpr int64_t kHeld = int64_t{256} << 20;
  const auto engine = Open(Options());
  Trained(*engine, SftBatch(1, {}));  // what is allocated once
  const int64_t before = Trained(*engine, SftBatch(2, {})).peak_bytes;
  at::Tensor held = at::ones({kHeld}, at::kByte);
  const int64_t during = Trained(*engine, SftBatch(3, {})).peak_bytes;
  EXPECT_EQ(held[kHeld - 1].item<int>(), 1);
  held.reset();
  [[maybe_unused]] const int64_t after = Trained(*engine, SftBatch(4, {})).peak_bytes;
  EXPECT_GT(before, int64_t{10} << 20) << "torch alone is more";
  EXPECT_NEAR(static_cast<double>(during - before) / kHeld, 1, 0.1);
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed resident for a while
  EXPECT_NEAR(static_cast<double>(after - before) / kHeld, 0, 0.1);
#endif
}

// Of each rollout's 36 tokens one has become twice as likely since it was sampled and one half as
// likely.
Batch MovedBatch(const model::Decoder& decoder) {
  Batch batch = RlBatch(decoder, 1, Budget());
  for (RlItem& item : batch.rl) {
    item.rollout.logprobs[kPrompt + 3] -= std::log(2.0f);
    item.rollout.logprobs[kPrompt + 20] += std::log(2.0f);
  }
  return batch;
}

TEST_F(StepMetricsTest, RatioStatisticsAreThoseOfRatiosThatAreKnown) {
  const auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  const auto ratio = Trained(*engine, MovedBatch(engine->decoder())).ratio;
  ASSERT_TRUE(ratio);
  constexpr double kSum = 34 + 2 + 0.5, kSquares = 34 + 4 + 0.25;
  EXPECT_NEAR(ratio->mean, kSum / 36, 1e-5);
  EXPECT_NEAR(ratio->max, 2, 1e-4);
  EXPECT_NEAR(ratio->effective_sample_size, kSum * kSum / (36 * kSquares), 1e-5);
  EXPECT_DOUBLE_EQ(ratio->clip_share, 1.0 / 36) << "likelier, and asked to be";
  EXPECT_EQ(ratio->truncated_share, 0);
  EXPECT_EQ(ratio->masked_share, 0);
}

TEST_F(StepMetricsTest, WhatACorrectionCutsAndMasksIsCounted) {
  EngineOptions cut = Options("cut"), masked = Options("masked");
  cut.loss.surrogate = {rl::SurrogateKind::kCispo, 1, 0.5};
  cut.loss.correction = {.kind = rl::CorrectionKind::kTis, .upper = 1.5};
  masked.loss.surrogate = cut.loss.surrogate;
  masked.loss.correction = {.kind = rl::CorrectionKind::kIcePop, .lower = 0.6, .upper = 1.5};
  const auto a = Open(cut), b = Open(masked);
  ASSERT_TRUE(a->Publish().ok() && b->Publish().ok());
  const Batch batch = MovedBatch(a->decoder());
  const auto x = Trained(*a, batch).ratio, y = Trained(*b, batch).ratio;
  ASSERT_TRUE(x && y);
  EXPECT_DOUBLE_EQ(x->truncated_share, 1.0 / 36);
  EXPECT_EQ(x->masked_share, 0);
  EXPECT_EQ(y->truncated_share, 0);
  EXPECT_DOUBLE_EQ(y->masked_share, 2.0 / 36);
}

}  // namespace
}  // namespace palimpsest::trainer
