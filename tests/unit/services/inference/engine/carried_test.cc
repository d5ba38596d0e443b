#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "common/attention/replay.h"
#include "services/inference/core/admission.h"
#include "tests/unit/services/inference/engine/session_testing.h"

// Choosers that weigh what slots bring along from earlier events: a cache that is built again from
// its log chooses on as the one that was lost.
namespace palimpsest::inference {
namespace {

using context::Chooser;
using context::Method;

constexpr std::pair<Method, Chooser> kWays[] = {{Method::kAttentionMatching, Chooser::kAccumulated},
                                                {Method::kAttentionMatching, Chooser::kCarriedMax},
                                                {Method::kAttentionMatching, Chooser::kDiverse},
                                                {Method::kEvict, Chooser::kAccumulated},
                                                {Method::kEvict, Chooser::kCarriedMax},
                                                {Method::kEvict, Chooser::kDiverse}};

class CarriedTest : public SessionTest {
 protected:
  static std::unique_ptr<Engine> Exact(int64_t bytes = 64 << 20) {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .batch_invariant = true,
                              .limits = {.kv_pool_bytes = bytes, .check_pages = true}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static std::string NameOf(Method method, Chooser chooser) {
    return std::string(Name(method)) + " by " + std::string(Name(chooser));
  }
};

// Events fall every ten tokens and free less than was added, so that the pool is full, and the
// youngest gives way, when each sample has had some.
TEST_F(CarriedTest, WhoGivesWayAfterItsFirstEventsChoosesOnAsIfItHadNotLostItsCache) {
  for (const auto& [method, chooser] : {kWays[0], kWays[2], kWays[4]}) {
    SCOPED_TRACE(NameOf(method, chooser));
    const auto run = [&](int64_t bytes) {
      const auto engine = Exact(bytes);
      GenerationRequest r = Request(6, 90);
      r.context = Budget(method, chooser);
      r.context.trigger = context::Segments{.every = 10, .window = 12, .keep_ratio = 0.6};
      const auto sink = Generate(*engine, r);
      EXPECT_EQ(sink->finished.size(), 6u);
      ExpectPoolWhole(*engine);
      return sink;
    };
    const auto roomy = run(64 << 20), tight = run(350'000);
    int lost = 0;  // with events in their caches, and with events to come
    for (int sample = 0; sample < 6; ++sample) {
      const rl::Rollout& r = tight->finished[sample].rollout;
      ExpectSame(r, roomy->finished[sample].rollout);
      ASSERT_GE(r.events.size(), 5u);
      for (const rl::Span& span : r.spans) {
        lost += span.kv_epoch > 0 && span.begin > r.events[1].at && span.begin < r.events.back().at;
      }
    }
    EXPECT_GT(lost, 0);
  }
}

// The same weights again: what was carried under them is made anew.
TEST_F(CarriedTest, ARebuildUnderTheSameWeightsChangesNothing) {
  for (const auto& [method, chooser] : kWays) {
    SCOPED_TRACE(NameOf(method, chooser));
    GenerationRequest r = Request(1, 200);
    r.context = Budget(method, chooser);
    const auto whole = Generate(*Exact(), r);
    auto engine = Exact();
    auto sink = std::make_shared<Collector>(1);
    ASSERT_TRUE(engine->Submit(r, sink).ok());
    sink->WaitForTokens(60);
    ASSERT_TRUE(engine->UpdateWeights(Folder(1), PolicyVersion(2), WeightsMode::kRecompute).ok());
    sink->Wait();
    EXPECT_EQ(sink->finished.at(0).rollout.spans.back().kv_epoch, 1);
    ExpectSame(whole->finished[0].rollout, sink->finished.at(0).rollout);
  }
}

TEST_F(CarriedTest, ACutSampleGoesOnInAnotherEngine) {
  for (const auto& [method, chooser] : kWays) {
    SCOPED_TRACE(NameOf(method, chooser));
    GenerationRequest r = Request(1, 120);
    r.context = Budget(method, chooser);
    const rl::Rollout whole = Generate(*Exact(), r)->finished[0].rollout;
    rl::Rollout cut = whole;
    cut.tokens.resize(90);
    cut.origins.resize(90);
    cut.logprobs.resize(90);
    std::erase_if(cut.events, [](const context::Event& e) { return e.at >= 90; });
    ASSERT_GE(cut.events.size(), 3u);
    ASSERT_LT(cut.events.size(), whole.events.size());
    cut.spans = {{16, 90, PolicyVersion(1), 0}};
    cut.finish_reason = rl::FinishReason::kCancelled;
    r.begun = {cut};
    const auto later = Generate(*Exact(), r);
    ASSERT_EQ(later->finished.size(), 1u);
    ExpectSame(later->finished[0].rollout, whole);
  }
}

// Steps of a session, a fork of it, and both after its memory was taken.
TEST_F(CarriedTest, SessionsCarryOnOverStepsForksAndTheLossOfTheirMemory) {
  for (const auto& [method, chooser] : kWays) {
    SCOPED_TRACE(NameOf(method, chooser));
    SessionSpec spec = Spec(TurnBased(method));
    spec.context.parameters.chooser = chooser;
    const auto begin = [&](Engine& engine) {
      const std::string id = Open(engine, spec).id;
      for (int turn = 0; turn < 4; ++turn) Go(engine, id, Words(10, turn));
      return id;
    };
    auto kept = Exact(), lost = Exact();
    const std::string a = begin(*kept), b = begin(*lost);
    const std::string fork = kept->sessions()->Fork("fork", a, {11})->front().id;
    ASSERT_TRUE(lost->UpdateWeights(Folder(1), PolicyVersion(2), WeightsMode::kRecompute).ok());
    for (int turn = 4; turn < 7; ++turn) {
      const rl::Rollout r = Go(*kept, a, Words(10, turn));
      EXPECT_GE(r.events.size(), 3u);
      ExpectSame(r, Go(*kept, fork, Words(10, turn)));
      ExpectSame(r, Go(*lost, b, Words(10, turn)));
      ExpectReplays(*kept, r);
    }
  }
}

// The trainer's executor, told when events fall but not what they keep, keeps what the engine kept;
// with nothing carried it would not.
TEST_F(CarriedTest, ReplayChoosesOnTheFlyWhatTheEngineChose) {
  const auto decoder = model::Decoder::Random(Config(), 1, model::DType::kFloat32);
  for (const auto& [method, chooser] : kWays) {
    SCOPED_TRACE(NameOf(method, chooser));
    GenerationRequest r = Request(1, 120);
    r.context = Budget(method, chooser);
    const rl::Rollout rollout = Generate(*Make(), r)->finished[0].rollout;
    const auto replay = [&](size_t forget) {
      attention::ReplaySequence sequence{.tokens = rollout.tokens,
                                         .prompt_tokens = 16,
                                         .rows = static_cast<int32_t>(rollout.tokens.size()) - 1};
      for (const context::Event& e : rollout.events) {
        sequence.events.push_back({.event = e, .keep_ratio = 0.4});
        context::Event& event = sequence.events.back().event;
        if (sequence.events.size() > forget) {
          event.kept = {};
        } else {
          event.parameters.chooser = context::DefaultChooser(method);
        }
      }
      const auto batch =
          attention::PackedBatch::Create({&sequence, 1}, {.layers = 3, .kv_heads = 2});
      EXPECT_TRUE(batch.ok()) << batch.status();
      c10::NoGradGuard no_grad;
      attention::ReplayContext context(
          *batch, {.gradient = compaction::GradientMode::kDetached, .scale = 0.25});
      decoder->Hidden(at::tensor(batch->ids(), at::kLong),
                      at::tensor(batch->positions(), at::kLong), context);
      const auto nodes = context.TakeEvents();
      std::vector<context::KeptPositions> kept;
      for (const context::Event& e : nodes.back()) kept.push_back(e.kept);
      return kept;
    };
    std::vector<context::KeptPositions> kept;
    for (const context::Event& e : rollout.events) kept.push_back(e.kept);
    ASSERT_GE(kept.size(), 5u);
    EXPECT_EQ(replay(0), kept);
    int otherwise = 0;
    for (size_t forget = 1; forget < kept.size(); ++forget) otherwise += replay(forget) != kept;
    EXPECT_GT(otherwise, 0);
  }
}

TEST_F(CarriedTest, WhatIsCarriedCountsInWhatASequenceNeeds) {
  GenerationRequest r = Request(1, 100);
  const ModelInfo model{.dtype = "float32",
                        .layers = 3,
                        .heads = 4,
                        .kv_heads = 2,
                        .head_dim = 16,
                        .max_position = 600};
  r.context = Budget(Method::kEvict, Chooser::kAttention);
  const int64_t without = BytesNeeded(r, model);
  r.context.parameters.chooser = Chooser::kCarriedMax;
  // 16 slots of the prompt's own copy and 40 of the sample, 6 heads, 12 bytes.
  EXPECT_EQ(BytesNeeded(r, model) - without, (16 + 40) * 6 * 12);
  r.context.method = Method::kMarkovian;
  EXPECT_FALSE(CarriesImportance(r));
}

}  // namespace
}  // namespace palimpsest::inference
