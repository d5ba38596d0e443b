#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "common/context/log.h"
#include "services/env/core/tally.h"
#include "services/inference/engine/engine_factory.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/episodes.h"
#include "services/trainer/engine/engine.h"
#include "tests/integration/turns/in_process_peers.h"
#include "tests/unit/services/orchestrator/engine/small_workplace.h"

// Episodes of 13 turns as a run plays them (the orchestrator's own code), sampled by the inference
// engine with events between the turns, and replayed by the trainer.
namespace palimpsest::orchestrator {
namespace {

constexpr int kSamples = 3, kTurns = 13;
// What replay owes sampling, fp32: nats.
constexpr double kMaxAbs = 2e-4, kMeanAbs = 1e-5;

class EpisodeTest : public testing::Test {
 protected:
  EpisodeTest() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    trainer::EngineOptions options;
    options.run = {.name = "test", .folder = folder_, .seed = 5};
    options.model.init = {.layers = 3,
                          .hidden = 64,
                          .intermediate = 96,
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .max_position = 512};
    options.threads = 1;
    trainer_ = trainer::TrainerEngine::Open(options, SystemClock()).value();
    EXPECT_TRUE(trainer_->Publish().ok());
    model_ = options.run.StoreFolder() + "/v00000001";
    engine_ =
        inference::MakeEngine({.model_folder = model_, .version = PolicyVersion(1), .threads = 1})
            .value();
    inference_ = std::make_unique<EngineClient>(*engine_);
    RunPlan plan;
    plan.stop_strings = {"$"};
    small_ = std::make_unique<SmallWorkplace>(plan, folder_,
                                              Peers{env_, *inference_, no_trainer_, no_codec_});
    small_->place.tokenizer = Tokenizer::Load(model_).value();
    small_->place.chat = std::make_shared<const FolderChat>(FolderChat::Read(model_));
    small_->place.model = inference_->Describe().value();
  }
  ~EpisodeTest() override { std::filesystem::remove_all(folder_); }

  std::vector<Played> Play(const context::ContextPolicy& policy, const std::string& id) {
    const Prompt prompt =
        env_.Reset({.task = "tally", .split = Split::kTrain, .seed = 3, .index = 1}).value();
    const Framing framing = Framing::Of(small_->place, prompt).value();
    GenerateCall call{
        .request_id = id, .prompt = framing.PromptIds().value(), .n = kSamples, .context = policy};
    call.sampling.max_tokens = prompt.max_response;
    call.sampling.stop_strings = {"$"};
    call.sampling.seed = 77;
    auto played = PlayEpisodes(small_->place, prompt, framing, call, {});
    EXPECT_TRUE(played.ok()) << played.status();
    return played.ok() ? *std::move(played) : std::vector<Played>();
  }
  // Their log-probabilities once more by the trainer, whose weights stay where they are.
  trainer::StepResult Replay(const std::vector<rl::Rollout>& rollouts) {
    trainer::Batch batch{.id = "b" + std::to_string(++step_), .step = step_};
    batch.learning_rate = 1e-30;
    for (const rl::Rollout& rollout : rollouts) {
      batch.rl.push_back({.rollout = rollout, .advantage = 1});
    }
    const auto outcome = trainer_->Train(batch);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    if (!outcome.ok()) return {};
    for (const trainer::Rejected& r : outcome->result.rejected) ADD_FAILURE() << r.message;
    return outcome->result;
  }
  static double MaxAbs(const trainer::StepResult& result) {
    double most = 0;
    for (const trainer::MismatchBucket& bucket : result.mismatch) {
      most = std::max(most, bucket.max_abs);
    }
    return most;
  }

  const std::string folder_ = testing::TempDir() + "/episodes-" + std::to_string(getpid());
  std::unique_ptr<trainer::TrainerEngine> trainer_;
  std::string model_;
  std::unique_ptr<inference::Engine> engine_;
  TaskClient env_{env::MakeTally({}).value()};
  std::unique_ptr<EngineClient> inference_;
  NoTrainer no_trainer_;
  NoCodec no_codec_;
  std::unique_ptr<SmallWorkplace> small_;
  int64_t step_ = 0;
};

context::ContextPolicy TurnBased(int32_t protect, context::Method method) {
  context::ContextPolicy policy{
      .trigger = context::Turns{.n_protect_turns = protect, .keep_ratio = 0.3},
      .method = method,
      .reference_tokens = 24};
  policy.parameters.chooser = context::DefaultChooser(method);
  return policy;
}

// Where each turn begins: P, and wherever injected tokens follow sampled ones.
std::vector<int32_t> TurnBegins(const rl::Rollout& r) {
  std::vector<int32_t> begins = {r.prompt_tokens};
  for (size_t p = r.prompt_tokens + 1; p < r.tokens.size(); ++p) {
    if (r.origins[p] == rl::Origin::kInjected && r.origins[p - 1] == rl::Origin::kSampled) {
      begins.push_back(static_cast<int32_t>(p));
    }
  }
  return begins;
}

TEST_F(EpisodeTest, TheSessionsLogIsTheEpisodeAndEachTurnHasItsEvent) {
  for (const Played& played : Play(TurnBased(0, context::Method::kAttentionMatching), "a")) {
    ASSERT_TRUE(played.sample.status.ok()) << played.sample.status;
    const rl::Rollout& r = played.sample.rollout;
    EXPECT_EQ(played.turns, kTurns);
    EXPECT_EQ(r.prompt_tokens, 14);
    EXPECT_EQ(r.seed, SessionSeed(77, played.sample.sample));
    const std::vector<int32_t> begins = TurnBegins(r);
    ASSERT_EQ(begins.size(), static_cast<size_t>(kTurns));
    ASSERT_EQ(r.events.size(), begins.size() - 1);
    for (size_t turn = 1; turn < begins.size(); ++turn) {
      EXPECT_EQ(r.events[turn - 1].at, begins[turn]);
      // The instruction, or at the end the question, exactly as the task says it.
      const size_t size = turn + 1 < begins.size() ? 4 : 6;
      const std::string said(r.tokens.begin() + begins[turn],
                             r.tokens.begin() + begins[turn] + static_cast<int>(size));
      EXPECT_THAT(said, testing::MatchesRegex(size == 4 ? "[a-d].[1-9];" : ".[a-d]+;"));
      EXPECT_EQ(r.origins[begins[turn] + size - 1], rl::Origin::kInjected);
      EXPECT_EQ(r.origins[begins[turn] + size], rl::Origin::kSampled);
    }
    ASSERT_FALSE(r.spans.empty());
    EXPECT_EQ(r.spans.back().end, static_cast<int32_t>(r.tokens.size()));
    EXPECT_TRUE(env_.Score(played.episode, "").ok());
    EXPECT_EQ(played.episode.state.size(), static_cast<size_t>(kTurns));
  }
  EXPECT_TRUE(engine_->sessions()->List("").empty());
}

TEST_F(EpisodeTest, ReplayGivesWhatWasSampledOverThirteenTurnsWithEvents) {
  std::vector<context::ContextPolicy> policies;
  for (const auto method : {context::Method::kAttentionMatching, context::Method::kEvict,
                            context::Method::kMarkovian}) {
    policies.push_back(TurnBased(0, method));
    policies.push_back(TurnBased(2, method));
  }
  context::ContextPolicy budget{
      .trigger = context::KvBudget{.budget = 34, .window = 16, .keep_ratio = 0.25},
      .reference_tokens = 24};
  policies.push_back(budget);
  for (const context::ContextPolicy& policy : policies) {
    std::vector<rl::Rollout> rollouts;
    for (const Played& played : Play(policy, "p" + std::to_string(step_))) {
      ASSERT_TRUE(played.sample.status.ok()) << played.sample.status;
      EXPECT_EQ(played.turns, kTurns);
      EXPECT_GE(played.sample.rollout.events.size(), 8u);
      rollouts.push_back(played.sample.rollout);
      rollouts.back().id = std::to_string(played.sample.sample);
    }
    const trainer::StepResult result = Replay(rollouts);
    EXPECT_GE(result.mismatch.size(), 9u) << "tokens were seen by none up to all of the events";
    for (const trainer::MismatchBucket& bucket : result.mismatch) {
      EXPECT_LE(bucket.max_abs, kMaxAbs) << bucket.events << " events";
      EXPECT_LE(bucket.mean_abs, kMeanAbs) << bucket.events << " events";
    }
  }
}

// What would go unseen if the bounds were loose: each of these is off by one.
TEST_F(EpisodeTest, AnOriginOrAnEventThatIsShiftedByOneShowsAsMismatch) {
  const std::vector<Played> played = Play(TurnBased(0, context::Method::kEvict), "n");
  ASSERT_FALSE(played.empty());
  const rl::Rollout& good = played[0].sample.rollout;
  EXPECT_LE(MaxAbs(Replay({good})), kMaxAbs);
  const int32_t begin = TurnBegins(good)[5];
  rl::Rollout origin = good;  // the last token of an instruction counts as sampled
  origin.origins[begin + 3] = rl::Origin::kSampled;
  EXPECT_GT(MaxAbs(Replay({origin})), 100 * kMaxAbs);
  rl::Rollout event = good;  // compacted one token later than it was
  event.events[4].at += 1;
  for (context::Event& e : event.events) e.digest.reset();
  ASSERT_TRUE(context::CompleteDigests(event.tokens, event.events).ok());
  EXPECT_GT(MaxAbs(Replay({event})), kMaxAbs);
  rl::Rollout missing = good;  // the later events never happened
  for (context::Event& e : missing.events) e.digest.reset();
  missing.events.resize(4);
  ASSERT_TRUE(context::CompleteDigests(missing.tokens, missing.events).ok());
  EXPECT_GT(MaxAbs(Replay({missing})), kMaxAbs);
}

TEST_F(EpisodeTest, DrawsHangOnSeedSampleAndPositionAlone) {
  const context::ContextPolicy policy = TurnBased(2, context::Method::kAttentionMatching);
  const std::vector<Played> first = Play(policy, "x"), again = Play(policy, "y");
  ASSERT_EQ(first.size(), again.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].sample.rollout.tokens, again[i].sample.rollout.tokens);
    EXPECT_EQ(first[i].episode, again[i].episode);
  }
  EXPECT_NE(first[0].sample.rollout.tokens, first[1].sample.rollout.tokens);
}

}  // namespace
}  // namespace palimpsest::orchestrator
