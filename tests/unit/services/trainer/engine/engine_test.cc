#include "services/trainer/engine/engine.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "common/attention/draft_events.h"
#include "common/base/random.h"
#include "common/context/log.h"
#include "common/model/logprob.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr context::Shape kShape = {.layers = 2, .kv_heads = 2};
constexpr int kPrompt = 4, kTokens = 40;

context::ContextPolicy Budget() {
  return {.trigger = context::KvBudget{.budget = 16, .window = 8, .keep_ratio = 0.5},
          .reference_tokens = 12};
}

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

  EngineOptions Options(const std::string& run = "a") const {
    EngineOptions o;
    o.run = {.name = run, .folder = root_ + "/" + run, .seed = 5};
    o.model.init = {.layers = kShape.layers,
                    .hidden = 32,
                    .intermediate = 48,
                    .heads = 4,
                    .kv_heads = kShape.kv_heads,
                    .head_dim = 8,
                    .max_position = 64};
    o.threads = 1;
    o.schedule = {.learning_rate = 3e-3, .warmup_steps = 0};
    return o;
  }
  std::unique_ptr<TrainerEngine> Open(const EngineOptions& options) const {
    auto engine = TrainerEngine::Open(options, SystemClock());
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  std::string root_;
};

std::vector<int32_t> RandomTokens(uint64_t seed, uint64_t prompt_seed) {
  RandomStream prompt(prompt_seed), rest(seed);
  std::vector<int32_t> tokens;
  for (int i = 0; i < kTokens; ++i) {
    tokens.push_back(static_cast<int32_t>((i < kPrompt ? prompt : rest).Below(257)));
  }
  return tokens;
}

Batch SftBatch(int64_t step, const context::ContextPolicy& policy, int items = 6) {
  Batch batch{.id = "sft-" + std::to_string(step), .step = step};
  for (int i = 0; i < items; ++i) {
    SftItem item{.id = std::to_string(i),
                 .ids = RandomTokens(10 + i, i / 3),
                 .prompt_tokens = kPrompt,
                 .context = policy};
    item.loss_mask.assign(kTokens, true);
    std::fill_n(item.loss_mask.begin(), kPrompt, false);
    batch.sft.push_back(std::move(item));
  }
  return batch;
}

// A rollout of given tokens as `decoder` would have sampled it under `policy`.
rl::Rollout Replayed(const model::Decoder& decoder, const context::ContextPolicy& policy,
                     std::vector<int32_t> tokens, const std::string& id) {
  c10::NoGradGuard no_grad;
  rl::Rollout rollout{.id = id, .tokens = std::move(tokens), .prompt_tokens = kPrompt};
  const int32_t rows = kTokens - 1;
  attention::ReplaySequence sequence{
      .tokens = rollout.tokens, .prompt_tokens = kPrompt, .rows = rows};
  sequence.events = *attention::DraftEvents(policy, kShape, kPrompt, rows);
  const auto batch = attention::PackedBatch::Create({&sequence, 1}, kShape);
  EXPECT_TRUE(batch.ok()) << batch.status();
  attention::ReplayContext context(*batch, {.scale = 1 / std::sqrt(8.0)});
  const at::Tensor hidden = decoder.Hidden(at::tensor(batch->ids(), at::kLong),
                                           at::tensor(batch->positions(), at::kLong), context);
  for (const auto& events : context.TakeEvents()) {
    rollout.events.insert(rollout.events.end(), events.begin(), events.end());
  }
  EXPECT_TRUE(context::CompleteDigests(rollout.tokens, rollout.events).ok());
  const at::Tensor targets =
      at::tensor(std::vector<int64_t>(rollout.tokens.begin() + 1, rollout.tokens.end()), at::kLong);
  const at::Tensor logprobs = model::TokenLogProbs(decoder, hidden, targets, 1.0);
  for (int i = 0; i < kTokens; ++i) {
    const bool sampled = i >= kPrompt;
    rollout.origins.push_back(sampled ? rl::Origin::kSampled : rl::Origin::kPrompt);
    rollout.logprobs.push_back(sampled ? logprobs[i - 1].item<float>() : 0);
  }
  rollout.spans = {{kPrompt, kTokens, PolicyVersion(1), 0}};
  return rollout;
}

Batch RlBatch(const model::Decoder& decoder, int64_t step, const context::ContextPolicy& policy,
              int items = 6) {
  Batch batch{.id = "rl-" + std::to_string(step), .step = step};
  for (int i = 0; i < items; ++i) {
    batch.rl.push_back(
        {.rollout = Replayed(decoder, policy, RandomTokens(10 + i, i / 3), "r" + std::to_string(i)),
         .advantage = 1});
  }
  return batch;
}

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

// Each turn that begins compacts what stands before it; who does not say where turns begin is
// rejected.
TEST_F(EngineTest, DemonstrationsOfSeveralTurnsAreLearntUnderTheirTurns) {
  context::ContextPolicy turns{.trigger = context::Turns{.n_protect_turns = 0, .keep_ratio = 0.25}};
  turns.reference_tokens = 8;
  Batch batch = SftBatch(1, turns);
  for (SftItem& item : batch.sft) item.turn_begins = {kPrompt, kPrompt + 6, kPrompt + 12};
  const StepResult compacted = Trained(*Open(Options("a")), batch);
  const StepResult whole = Trained(*Open(Options("b")), SftBatch(1, {}));
  EXPECT_TRUE(compacted.rejected.empty());
  EXPECT_EQ(compacted.loss_tokens, whole.loss_tokens);
  EXPECT_GT(std::abs(compacted.loss - whole.loss), 1e-5);
  batch.sft[2].turn_begins.clear();
  const StepResult without = Trained(*Open(Options("c")), batch);
  ASSERT_EQ(without.rejected.size(), 1u);
  EXPECT_EQ(without.rejected[0].id, "2");
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
