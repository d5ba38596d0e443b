#include "services/trainer/engine/engine.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tests/unit/services/trainer/engine/batches.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class EngineTest : public ::testing::Test {
 protected:
  EngineTest()
      : root_((fs::path(::testing::TempDir()) /
               (std::string("trainer_") +
                ::testing::UnitTest::GetInstance()->current_test_info()->name()))
                  .string()) {
    fs::remove_all(root_);
  }
  ~EngineTest() override { fs::remove_all(root_); }

  EngineOptions Options(const std::string& run = "a") const { return TinyOptions(root_, run); }
  std::unique_ptr<TrainerEngine> Open(const EngineOptions& options) const {
    auto engine = TrainerEngine::Open(options, SystemClock());
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  std::string root_;
};

std::vector<at::Tensor> Weights(const TrainerEngine& engine) {
  std::vector<at::Tensor> weights;
  for (const auto& [name, tensor] : engine.decoder().Parameters()) {
    weights.push_back(tensor.detach().clone());
  }
  return weights;
}

bool BitEqual(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

StepResult Trained(TrainerEngine& engine, const Batch& batch) {
  const auto outcome = engine.Train(batch);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  return outcome.ok() ? outcome->result : StepResult{};
}

TEST_F(EngineTest, DemonstrationsAreLearntWithAndWithoutCompaction) {
  for (const context::ContextPolicy& policy : {context::ContextPolicy{}, Budget()}) {
    fs::remove_all(root_);
    const auto engine = Open(Options());
    const double first = Trained(*engine, SftBatch(1, policy)).loss;
    double last = 0;
    for (int64_t step = 2; step <= 20; ++step) {
      const StepResult result = Trained(*engine, SftBatch(step, policy));
      EXPECT_FALSE(result.skipped);
      EXPECT_EQ(result.loss_tokens, 6 * (kTokens - kPrompt));
      EXPECT_EQ(result.tokens, 2 * kPrompt + 6 * (kTokens - 1 - kPrompt));  // prompts once
      last = result.loss;
    }
    EXPECT_NEAR(first, std::log(257), 1.5);
    EXPECT_LT(last, 0.7 * first);
  }
}

TEST_F(EngineTest, OwnRolloutsHaveRatioOneAndNoMismatchAtAnyEvent) {
  const auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  const StepResult result = Trained(*engine, RlBatch(engine->decoder(), 1, Budget()));
  EXPECT_THAT(result.rejected, SizeIs(0));
  ASSERT_TRUE(result.ratio);
  EXPECT_NEAR(result.ratio->mean, 1, 1e-5);
  EXPECT_NEAR(result.ratio->effective_sample_size, 1, 1e-5);
  EXPECT_EQ(result.ratio->clip_share, 0);
  EXPECT_NEAR(result.loss, -1, 1e-5);
  ASSERT_GE(result.mismatch.size(), 4u);  // 0, 1, 2, 3 ... events
  int64_t tokens = 0;
  for (const MismatchBucket& bucket : result.mismatch) {
    EXPECT_LE(bucket.max_abs, 2e-5) << bucket.events;
    tokens += bucket.tokens;
  }
  EXPECT_EQ(tokens, result.loss_tokens);
}

TEST_F(EngineTest, AnEventThatIsLeftOutShowsAsMismatch) {
  const auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  Batch batch = RlBatch(engine->decoder(), 1, Budget());
  for (RlItem& item : batch.rl) item.rollout.events.clear();
  EXPECT_GT(Trained(*engine, batch).mismatch.back().max_abs, 1e-2);
}

TEST_F(EngineTest, AtRatioOneThePolicyGradientIsThatOfTheDemonstrations) {
  const auto rl = Open(Options("rl")), sft = Open(Options("sft"));
  ASSERT_TRUE(rl->Publish().ok());
  const StepResult a = Trained(*rl, RlBatch(rl->decoder(), 1, Budget()));
  const StepResult b = Trained(*sft, SftBatch(1, Budget()));
  EXPECT_NEAR(a.grad_norm / b.grad_norm, 1, 1e-4);
  EXPECT_NEAR(a.entropy, b.entropy, 1e-5);
}

TEST_F(EngineTest, HowABatchIsCutIntoMicroBatchesChangesNothing) {
  EngineOptions small = Options("small"), large = Options("large");
  small.max_tokens_per_micro_batch = 80;
  const auto a = Open(small), b = Open(large);
  const StepResult x = Trained(*a, SftBatch(1, Budget()));
  const StepResult y = Trained(*b, SftBatch(1, Budget()));
  EXPECT_GT(x.tokens, y.tokens);  // prompts of cut groups are there twice
  EXPECT_NEAR(x.loss, y.loss, 1e-5);
  EXPECT_NEAR(x.grad_norm / y.grad_norm, 1, 1e-5);
}

TEST_F(EngineTest, ResumingIsExact) {
  const auto whole = Open(Options("whole"));
  for (int64_t step = 1; step <= 3; ++step) Trained(*whole, SftBatch(step, Budget()));
  auto cut = Open(Options("cut"));
  Trained(*cut, SftBatch(1, Budget()));
  ASSERT_TRUE(cut->Save().ok());
  EXPECT_EQ(cut->durable_step(), 1);
  Trained(*cut, SftBatch(2, Budget()));  // lost with the process
  cut = Open(Options("cut"));
  EXPECT_EQ(cut->step(), 1);
  EXPECT_EQ(cut->last_batch_id(), "sft-1");
  EXPECT_TRUE(cut->Train(SftBatch(1, Budget()))->already_trained);
  for (int64_t step = 2; step <= 3; ++step) Trained(*cut, SftBatch(step, Budget()));
  EXPECT_TRUE(BitEqual(Weights(*whole), Weights(*cut)));
}

TEST_F(EngineTest, ABatchIsInTheWeightsOnce) {
  const auto engine = Open(Options());
  const StepResult first = Trained(*engine, SftBatch(1, Budget()));
  const auto weights = Weights(*engine);
  const auto again = engine->Train(SftBatch(1, Budget()));
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->already_trained);
  EXPECT_EQ(again->result.loss, first.loss);
  EXPECT_TRUE(absl::IsFailedPrecondition(engine->Train(SftBatch(3, Budget())).status()));
  EXPECT_TRUE(BitEqual(weights, Weights(*engine)));
}

TEST_F(EngineTest, ARolloutWithAWrongDigestIsRejectedAndTheOthersAreLearnt) {
  const auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  Batch batch = RlBatch(engine->decoder(), 1, Budget());
  batch.rl[2].rollout.tokens[7] ^= 1;
  const StepResult result = Trained(*engine, batch);
  ASSERT_THAT(result.rejected, SizeIs(1));
  EXPECT_EQ(result.rejected[0].id, "r2");
  EXPECT_EQ(result.rejected[0].reason, RejectReason::kDigest);
  EXPECT_EQ(result.loss_tokens, 5 * (kTokens - kPrompt));
  EXPECT_FALSE(result.skipped);
}

TEST_F(EngineTest, AStepThatIsNotFiniteChangesNoWeight) {
  const auto engine = Open(Options());
  c10::NoGradGuard no_grad;
  at::Tensor(engine->decoder().Parameters().back().second).fill_(NAN);
  const auto weights = Weights(*engine);
  at::Tensor embedding = weights.front();
  c10::AutoGradMode grad(true);
  const StepResult result = Trained(*engine, SftBatch(1, {}));
  EXPECT_TRUE(result.skipped);
  for (const auto& [name, tensor] : engine->decoder().Parameters()) {
    EXPECT_FALSE(tensor.grad().defined());
  }
  EXPECT_TRUE(at::equal(embedding, Weights(*engine).front()));
  EXPECT_EQ(engine->step(), 1);
}

TEST_F(EngineTest, VersionsAreWhatAnyReaderCanLoadAndTheSameStepIsTheSameVersion) {
  const auto engine = Open(Options());
  const auto first = engine->Publish();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->version, PolicyVersion(1));
  EXPECT_EQ(*engine->Publish(), *first);
  Trained(*engine, SftBatch(1, {}));
  EXPECT_EQ(engine->Publish()->version, PolicyVersion(2));
  EXPECT_THAT(*engine->Published(), SizeIs(2));
  const auto loaded = LoadModel(Options().run.StoreFolder() + "/v00000002", model::DType::kFloat32);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->companions.contains("generation_config.json"));
  EXPECT_TRUE(at::equal(loaded->decoder->HeadWeight(), engine->decoder().HeadWeight().detach()));
}

}  // namespace
}  // namespace palimpsest::trainer
