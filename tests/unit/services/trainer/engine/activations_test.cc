#include <gtest/gtest.h>
#include <malloc.h>

#include "common/attention/draft_events.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Steps whose activations are made again in the backward pass, and what that saves.
namespace palimpsest::trainer {
namespace {

using compaction::GradientMode;
using model::Activations;

class ActivationsTest : public EngineTest {
 protected:
  // The weights after two steps, rollouts with every method and demonstrations, and their results.
  std::vector<at::Tensor> Learn(EngineOptions options, std::vector<StepResult>& results) const {
    const auto engine = Open(options);
    EXPECT_TRUE(engine->Publish().ok());
    const SourceModel first = *MakeModel(options.model, options.run.seed, options.dtype);
    results.push_back(Trained(*engine, MixedBatch(*first.decoder, 1)));
    results.push_back(Trained(*engine, SftBatch(2, Budget())));
    return Weights(*engine);
  }
};

TEST_F(ActivationsTest, StepsAreTheSameBitsWhetherTheyAreKeptOrMadeAgain) {
  std::vector<std::vector<at::Tensor>> weights;
  for (const GradientMode mode :
       {GradientMode::kFull, GradientMode::kStraightThrough, GradientMode::kDetached}) {
    EngineOptions options = Options("kept" + std::to_string(static_cast<int>(mode)));
    options.gradient = mode;
    options.shadow.distillation = {rl::Distillation::kD1, 0.5, 0};  // the other view learns, too
    options.max_tokens_per_micro_batch = 120;
    std::vector<StepResult> kept, again;
    weights.push_back(Learn(options, kept));
    options.run.name = "again" + std::to_string(static_cast<int>(mode));
    options.run.folder = root_ + "/" + options.run.name;
    options.activations = Activations::kRecomputed;
    EXPECT_TRUE(BitEqual(Learn(options, again), weights.back()));
    for (size_t i = 0; i < kept.size(); ++i) {
      EXPECT_EQ(again[i].loss, kept[i].loss);
      EXPECT_EQ(again[i].grad_norm, kept[i].grad_norm);
      EXPECT_FALSE(kept[i].skipped);
    }
  }
  // The control: what gradients pass on is seen in these weights.
  EXPECT_FALSE(BitEqual(weights[0], weights[1]));
  EXPECT_FALSE(BitEqual(weights[1], weights[2]));
}

// Eight layers of which one is held at a time.
TEST_F(ActivationsTest, MadeAgainTheyTakeLessThanHalfOfTheMemoryWithEventsOrWithout) {
  constexpr int kPositions = 160, kSequences = 16;
  const auto decoder = model::Decoder::Random({.architecture = model::Architecture::kQwen3,
                                               .layers = 8,
                                               .hidden = 64,
                                               .intermediate = 192,
                                               .heads = 4,
                                               .kv_heads = 2,
                                               .head_dim = 16,
                                               .vocab = 64,
                                               .max_position = 256},
                                              1, model::DType::kFloat32);
  for (auto [name, tensor] : decoder->Parameters()) tensor.requires_grad_(true);
  const std::vector<int32_t> tokens = [] {
    RandomStream random(1);
    std::vector<int32_t> drawn(kPositions + 1);
    for (int32_t& token : drawn) token = static_cast<int32_t>(random.Below(64));
    return drawn;
  }();
  for (const bool events : {false, true}) {
    LossSequence sequence{.replay = {.tokens = tokens, .prompt_tokens = 0, .rows = kPositions}};
    if (events) {
      const context::ContextPolicy policy{
          .trigger = context::KvBudget{.budget = 64, .window = 32, .keep_ratio = 0.25},
          .reference_tokens = 32};
      sequence.replay.events = *attention::DraftEvents(policy, {8, 2}, 0, kPositions);
    }
    for (int p = 1; p <= kPositions; ++p)
      sequence.tokens.push_back({.position = p, .weight = 1e-3});
    const std::vector<const LossSequence*> batch(kSequences, &sequence);
    const auto peak = [&](Activations activations) {
      decoder->SetActivations(activations);
      malloc_trim(0);
      ResetPeakMemory();
      const int64_t before = PeakMemory();
      EXPECT_TRUE(RunPass(*decoder, {.scale = 0.25}, batch, Likelihood, SystemClock()).ok());
      const int64_t after = PeakMemory();
      TakeGradients(*decoder);
      return after - before;
    };
    peak(Activations::kRecomputed);  // what is allocated once
    const int64_t again = peak(Activations::kRecomputed), kept = peak(Activations::kKept);
    std::printf("peak bytes %s events: %ld made again, %ld kept\n", events ? "with" : "without",
                static_cast<long>(again), static_cast<long>(kept));
    EXPECT_GT(kept, 60 << 20) << "enough to be measured";
    EXPECT_LT(again, kept / 2);
  }
}

}  // namespace
}  // namespace palimpsest::trainer
