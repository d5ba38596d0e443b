#include "services/trainer/engine/engine.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/model/causal.h"
#include "common/weights/canary.h"
#include "common/weights/durable_file.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

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

// Largest difference between what was replayed and what `items` recorded, token by token; the
// rollouts must be these, in this order.
double MaxAbs(const std::vector<rl::Replayed>& replayed, const std::vector<RlItem>& items) {
  double most = 0;
  EXPECT_EQ(replayed.size(), items.size());
  for (size_t i = 0; i < std::min(replayed.size(), items.size()); ++i) {
    const rl::Rollout& rollout = items[i].rollout;
    EXPECT_EQ(replayed[i].id, rollout.id);
    const auto all = rl::ByPosition(rollout, replayed[i].logprobs);
    EXPECT_TRUE(all.ok()) << all.status();
    for (size_t t = 0; all.ok() && t < all->size(); ++t) {
      most = std::max<double>(most, std::abs((*all)[t] - rollout.logprobs[t]));
    }
  }
  return most;
}

TEST_F(EngineTest, RolloutsComeBackReplayedTokenByTokenByTheWeightsBeforeTheStep) {
  const auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  const Batch first = RlBatch(engine->decoder(), 1, Budget());
  const Batch older = RlBatch(engine->decoder(), 2, {});
  EXPECT_LE(MaxAbs(engine->Train(first)->replayed, first.rl), 2e-5);
  const Batch before = RlBatch(engine->decoder(), 2, {});
  const std::vector<rl::Replayed> replayed = engine->Train(older)->replayed;
  const Batch after = RlBatch(engine->decoder(), 2, {});
  EXPECT_LE(MaxAbs(replayed, before.rl), 2e-5);
  EXPECT_GT(MaxAbs(replayed, older.rl), 1e-3) << "the control: other weights are far away";
  EXPECT_GT(MaxAbs(replayed, after.rl), 1e-3);
}

TEST_F(EngineTest, WhatWasReplayedIsInTheOrderOfTheBatchAndWithoutWhatWasRejected) {
  EngineOptions options = Options();
  options.max_tokens_per_micro_batch = 80;
  const auto engine = Open(options);
  ASSERT_TRUE(engine->Publish().ok());
  Batch batch = RlBatch(engine->decoder(), 1, Budget());
  const double temperatures[] = {1.5, 0.5, 1, 1, 0.5, 1};  // replayed together where they are equal
  for (size_t i = 0; i < 6; ++i) batch.rl[i].rollout.temperature = temperatures[i];
  batch.rl[2].rollout.tokens[7] ^= 1;
  const std::vector<rl::Replayed> replayed = engine->Train(batch)->replayed;
  std::vector<std::string> ids;
  for (const rl::Replayed& r : replayed) ids.push_back(r.id);
  ASSERT_THAT(ids, ElementsAre("r0", "r1", "r3", "r4", "r5"));
  EXPECT_LE(MaxAbs({replayed[2], replayed[4]}, {batch.rl[3], batch.rl[5]}), 2e-5);
  EXPECT_GT(MaxAbs({replayed[0]}, {batch.rl[0]}), 1e-2) << "recorded at another temperature";
  EXPECT_THAT(engine->Train(SftBatch(2, Budget()))->replayed, SizeIs(0));
}

TEST_F(EngineTest, WhatWasReplayedIsToldAgainUntilTheNextStepOrProcess) {
  auto engine = Open(Options());
  ASSERT_TRUE(engine->Publish().ok());
  const Batch batch = RlBatch(engine->decoder(), 1, Budget());
  const auto first = engine->Train(batch), again = engine->Train(batch);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_TRUE(again->already_trained);
  EXPECT_THAT(again->replayed, SizeIs(6));
  EXPECT_EQ(again->replayed, first->replayed);
  ASSERT_TRUE(engine->Save().ok());
  const auto next = Open(Options())->Train(batch);
  EXPECT_TRUE(next->already_trained);
  EXPECT_THAT(next->replayed, SizeIs(0));
  Trained(*engine, SftBatch(2, Budget()));
  EXPECT_THAT(engine->Train(batch)->replayed, SizeIs(0));
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
  EXPECT_EQ(x.tokens, y.tokens);  // a cut group's prompt, too, is there once
  EXPECT_NEAR(x.loss, y.loss, 1e-5);
  EXPECT_NEAR(x.grad_norm / y.grad_norm, 1, 1e-5);
}

TEST_F(EngineTest, TheLargestCapThatCanBeWrittenRefusesNothing) {
  EngineOptions options = Options();
  options.max_tokens_per_micro_batch = std::numeric_limits<int32_t>::max();
  const auto engine = Open(options);
  EXPECT_EQ(engine->info().max_tokens_per_sequence, 64);  // the model's positions
  const StepResult result = Trained(*engine, SftBatch(1, Budget()));
  EXPECT_THAT(result.rejected, SizeIs(0));
  EXPECT_EQ(result.loss_tokens, 6 * (kTokens - kPrompt));
  options.run.folder += "-small";
  options.max_tokens_per_micro_batch = 20;
  EXPECT_EQ(Open(options)->info().max_tokens_per_sequence, 21) << "the control";
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

// Flips a bit of the weights of a checkpoint of run "a".
void Break(const EngineOptions& options, int64_t step) {
  const std::string path =
      absl::StrFormat("%s/step-%08d/model.safetensors", options.run.CheckpointFolder(), step);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x55');
  ASSERT_TRUE(file.good()) << path;
}

// Keeps one, falls back, saves: what was saved is what the next process finds.
TEST_F(EngineTest, ARunThatFellBackToAnOlderCheckpointLosesNothingByItsNextSave) {
  const auto whole = Open(Options("whole"));
  for (int64_t step = 1; step <= 4; ++step) Trained(*whole, SftBatch(step, Budget()));
  EngineOptions options = Options();
  options.keep_checkpoints = 3;
  auto engine = Open(options);
  for (int64_t step = 1; step <= 3; ++step) {
    Trained(*engine, SftBatch(step, Budget()));
    ASSERT_TRUE(engine->Save().ok());
  }
  for (int64_t step : {2, 3}) Break(options, step);
  std::ofstream(options.run.CheckpointFolder() + "/attempt");  // empty
  options.keep_checkpoints = 1;
  engine = Open(options);
  ASSERT_EQ(engine->step(), 1);
  Trained(*engine, SftBatch(2, Budget()));
  ASSERT_TRUE(engine->Save().ok());
  EXPECT_EQ(engine->durable_step(), 2);
  engine = Open(options);
  ASSERT_EQ(engine->step(), 2);
  for (int64_t step : {3, 4}) Trained(*engine, SftBatch(step, Budget()));
  EXPECT_TRUE(BitEqual(Weights(*whole), Weights(*engine)));
}

TEST_F(EngineTest, ARunGoesOnFromTheStepThatItIsToldOrNotAtAll) {
  EngineOptions options = Options();
  options.keep_checkpoints = 1;
  options.keep_every = 2;
  auto engine = Open(options);
  for (int64_t step = 1; step <= 5; ++step) {
    Trained(*engine, SftBatch(step, Budget()));
    ASSERT_TRUE(engine->Save().ok());
  }
  const auto weights = Weights(*engine);
  options.resume = 3;
  const absl::Status refused = TrainerEngine::Open(options, SystemClock()).status();
  EXPECT_TRUE(absl::IsNotFound(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("trainer.resume=3: no checkpoint of step"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("there are: 2, 4, 5"));
  options.resume = 2;
  engine = Open(options);
  EXPECT_EQ(engine->step(), 2);
  for (int64_t step = 3; step <= 5; ++step) Trained(*engine, SftBatch(step, Budget()));
  EXPECT_TRUE(BitEqual(weights, Weights(*engine)));
  EXPECT_EQ(Open(Options())->step(), 5) << "nothing is lost before it saves";
}

TEST_F(EngineTest, ASaveSeesThatItsCheckpointIsGone) {
  const auto engine = Open(Options());
  Trained(*engine, SftBatch(1, Budget()));
  ASSERT_TRUE(engine->Save().ok());
  fs::remove_all(Options().run.CheckpointFolder());
  ASSERT_TRUE(engine->Save().ok());
  EXPECT_EQ(engine->durable_step(), 1);
  EXPECT_EQ(Open(Options())->step(), 1);
}

// Holds every thread but its own that asks it for the time, until it is opened.
class HoldingClock final : public Clock {
 public:
  absl::Time Now() override {
    if (std::this_thread::get_id() != own_) go_on.WaitForNotification();
    return SystemClock().Now();
  }
  void SleepFor(absl::Duration d) override { SystemClock().SleepFor(d); }

  absl::Notification go_on;

 private:
  const std::thread::id own_ = std::this_thread::get_id();
};

// The write is held when the next steps are taken; what a kill then would leave is looked at.
TEST_F(EngineTest, StepsGoOnWhileACheckpointIsWrittenAndItHoldsTheStepThatWasSaved) {
  const auto whole = Open(Options("whole"));
  for (int64_t step = 1; step <= 4; ++step) Trained(*whole, SftBatch(step, Budget()));
  HoldingClock clock;
  const EngineOptions options = Options();
  auto engine = Open(options);
  Trained(*engine, SftBatch(1, Budget()));
  ASSERT_TRUE(engine->Save().ok());
  engine = *TrainerEngine::Open(options, clock);
  Trained(*engine, SftBatch(2, Budget()));
  ASSERT_TRUE(engine->BeginSave().ok());
  EXPECT_EQ(engine->saving_step(), 2);
  Trained(*engine, SftBatch(3, Budget()));
  ASSERT_TRUE(engine->Publish().ok());
  EXPECT_EQ(engine->durable_step(), 1);
  fs::copy(root_ + "/a", root_ + "/killed", fs::copy_options::recursive);
  clock.go_on.Notify();
  engine.reset();  // waits for the write, as no kill does
  EngineOptions as_killed = options;
  as_killed.run.folder = root_ + "/killed";
  const auto killed = Open(as_killed), resumed = Open(options);
  EXPECT_EQ(killed->step(), 1);
  EXPECT_EQ(resumed->step(), 2);
  for (TrainerEngine* life : {killed.get(), resumed.get()}) {
    for (int64_t step = life->step() + 1; step <= 4; ++step) {
      Trained(*life, SftBatch(step, Budget()));
    }
    EXPECT_TRUE(BitEqual(Weights(*whole), Weights(*life)));
  }
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

TEST_F(EngineTest, ARunThatGoesOnKeepsItsModelAndNamesWhatIsAskedForOtherwise) {
  EngineOptions options = Options();
  ASSERT_TRUE(Open(options)->Save().ok());
  const auto refused = [&](auto change) {
    EngineOptions other = options;
    change(other.model.init);
    return std::string(TrainerEngine::Open(other, SystemClock()).status().message());
  };
  EXPECT_THAT(refused([](InitModel& m) { m.layers += 1; }), HasSubstr("model.init.layers: 3 is"));
  EXPECT_THAT(refused([](InitModel& m) { m.special_tokens.push_back("<|x|>"); }),
              HasSubstr("model.init.special_tokens"));
  EXPECT_THAT(refused([](InitModel& m) { m.rope_theta = 5000; }),
              HasSubstr("model.init.rope_theta: 5000 is asked for"));
  EXPECT_EQ(refused([](InitModel&) {}), "");
}

TEST_F(EngineTest, AfterSoManyStepsThatAreNotFiniteNoBatchIsTakenNotEvenByTheNextProcess) {
  EngineOptions options = Options();
  options.max_skipped_in_a_row = 2;
  auto engine = Open(options);
  {
    c10::NoGradGuard no_grad;
    at::Tensor(engine->decoder().Parameters().back().second).fill_(NAN);
  }
  EXPECT_TRUE(Trained(*engine, SftBatch(1, {})).skipped);
  EXPECT_TRUE(engine->Sound().ok());
  EXPECT_TRUE(Trained(*engine, SftBatch(2, {})).skipped);
  const absl::Status refused = engine->Train(SftBatch(3, {})).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("trainer.max_skipped_in_a_row=2"));
  EXPECT_TRUE(engine->Train(SftBatch(2, {}))->already_trained);
  ASSERT_TRUE(engine->Save().ok());
  engine = Open(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(engine->Sound()));
  options.max_skipped_in_a_row = 0;
  engine = Open(options);
  EXPECT_TRUE(Trained(*engine, SftBatch(3, {})).skipped);
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

TEST_F(EngineTest, AVersionSaysWhatItsWeightsSayOfTheCanaryPrompts) {
  const auto engine = Open(Options());
  std::vector<std::vector<weights::CanaryPrompt>> said;
  for (const char* version : {"/v00000001", "/v00000002"}) {
    ASSERT_TRUE(engine->Publish().ok());
    const auto text = weights::ReadSmallFile(
        Options().run.StoreFolder() + version + "/" + weights::kCanaryName, weights::kMaxCanary);
    ASSERT_TRUE(text.ok()) << text.status();
    const auto prompts = weights::CanaryFromJson(*text);
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    said.push_back(*prompts);
    if (said.size() == 1) Trained(*engine, SftBatch(1, {}));
  }
  ASSERT_THAT(said[0], SizeIs(4));
  EXPECT_EQ(said[0][3].ids, said[1][3].ids);
  EXPECT_NE(said[0][3].logprobs, said[1][3].logprobs) << "a step lies between";
  // What stands in the folder says the same, row by row.
  const auto loaded = LoadModel(Options().run.StoreFolder() + "/v00000002", model::DType::kFloat32);
  const weights::CanaryPrompt& prompt = said[1][2];
  const auto rows = static_cast<int64_t>(prompt.ids.size());
  model::CausalContext attention({rows});
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> ids(prompt.ids.begin(), prompt.ids.end());
  const at::Tensor logits = loaded->decoder->Logits(
      loaded->decoder->Hidden(at::tensor(ids, at::kLong), at::arange(rows), attention));
  const at::Tensor logprobs = at::log_softmax(logits.to(at::kDouble), 1);
  for (int64_t i = 1; i < rows; ++i)
    EXPECT_NEAR(logprobs[i - 1][ids[i]].item<double>(), prompt.logprobs[i - 1], 1e-5);
}

}  // namespace
}  // namespace palimpsest::trainer
