#include <gmock/gmock.h>

#include "common/context/state.h"
#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {
namespace {

constexpr int kSequences = 6;
// Of the tests' model: a page of 16 slots of 3 layers x 2 heads (2 x 16 floats and a bias), and
// what a sequence records of 24 positions of 3 layers x 4 heads.
constexpr int64_t kPage = 16 * 3 * 2 * (2 * 16 * 4 + 4);
constexpr int64_t kQueries = 24 * 3 * 4 * 16 * 4;

struct Counts {
  int preempted = 0, early = 0, events = 0;
};

class PressureTest : public EngineTest {
 protected:
  static context::KvBudget Trigger(double early) {
    return {.budget = 100, .window = 40, .keep_ratio = 0.25, .early = early};
  }
  // Six at once, each of up to seven pages, in a pool of `pages` and what they record.
  static std::vector<rl::Rollout> Run(int64_t pages, double early, Counts& counts) {
    auto engine =
        MakeEngine({.model_folder = Folder(1),
                    .version = PolicyVersion(1),
                    .limits = {.kv_pool_bytes = pages * kPage + (kSequences + 1) * kQueries,
                               .check_pages = true},
                    .observer = {.compaction = [&](context::Method, double) { ++counts.events; },
                                 .compacted_early = [&] { ++counts.early; },
                                 .preempted = [&] { ++counts.preempted; }}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    (*engine)->Pause();
    std::vector<std::shared_ptr<Collector>> sinks;
    for (int i = 0; i < kSequences; ++i) {
      GenerationRequest r = Request(1, 200);
      r.request_id = std::to_string(i);
      r.sampling.seed = 100 + i;
      r.context = {.trigger = Trigger(early),
                   .method = context::Method::kAttentionMatching,
                   .reference_tokens = 24};
      sinks.push_back(std::make_shared<Collector>(1));
      EXPECT_TRUE((*engine)->Submit(r, sinks.back()).ok());
    }
    (*engine)->Resume();
    std::vector<rl::Rollout> rollouts;
    for (const auto& sink : sinks) {
      sink->Wait();
      if (sink->finished.size() != 1) {
        ADD_FAILURE() << "a sample failed";
        continue;
      }
      rollouts.push_back(sink->finished[0].rollout);
      ExpectReplays(**engine, rollouts.back());
    }
    ExpectPoolWhole(**engine);
    return rollouts;
  }
  // The log alone explains every sampled token.
  static void ExpectReplays(Engine& engine, const rl::Rollout& r) {
    const auto score = engine.Score({.tokens = r.tokens, .events = r.events});
    ASSERT_TRUE(score.ok()) << score.status();
    for (size_t p = r.prompt_tokens; p < r.tokens.size(); ++p)
      EXPECT_NEAR(score->logprobs[p - 1], r.logprobs[p], 2e-4);
  }
  // Live slots just before each event.
  static std::vector<int32_t> LiveAtEvents(const rl::Rollout& r) {
    context::ContextState state({Config().layers, Config().kv_heads});
    std::vector<int32_t> live;
    for (const context::Event& e : r.events) {
      state.Append(e.at - state.processed());
      live.push_back(state.live_count());
      EXPECT_TRUE(state.Apply(e).ok());
    }
    return live;
  }
};

TEST_F(PressureTest, EventsThatMayComeEarlierSpareOthersTheirCaches) {
  constexpr int64_t kPages = 32;  // of 42
  Counts without, with;
  for (const rl::Rollout& r : Run(kPages, 0, without)) {
    for (const int32_t live : LiveAtEvents(r)) EXPECT_EQ(live, 100);
  }
  EXPECT_GT(without.preempted, 0);
  EXPECT_EQ(without.early, 0);
  const auto rollouts = Run(kPages, 0.5, with);
  EXPECT_EQ(with.preempted, 0);
  EXPECT_GT(with.early, 0);
  int early = 0, events = 0;
  for (const rl::Rollout& r : rollouts) {
    EXPECT_EQ(r.spans.size(), 1u);
    EXPECT_EQ(r.tokens.size(), 16u + 200u);
    for (const int32_t live : LiveAtEvents(r)) {
      EXPECT_GE(live, Trigger(0.5).EarliestLive());
      EXPECT_LE(live, 100);
      early += live < 100;
      ++events;
    }
  }
  EXPECT_EQ(early, with.early);
  EXPECT_EQ(events, with.events);
}

// Where early events are not enough the youngest gives way as ever; its log, early events and all,
// brings it back.
TEST_F(PressureTest, WhenEarlyEventsAreNotEnoughTheYoungestGivesWayAndItsLogBringsItBack) {
  Counts without, with;
  Run(20, 0, without);
  const auto rollouts = Run(20, 0.4, with);
  EXPECT_GT(with.early, 0);
  EXPECT_GT(with.preempted, 0);
  EXPECT_LT(with.preempted, without.preempted);
  int epochs = 0;
  for (const rl::Rollout& r : rollouts) epochs += r.spans.back().kv_epoch > 0;
  EXPECT_GT(epochs, 0);
}

// Samples of one prompt share its four pages until their first events, which fall due in one step
// and want them for each: there is room for two at a time.
TEST_F(PressureTest, EventsThatFindNoPagesWaitForThoseWhoGiveSomeBack) {
  constexpr int64_t kPages = 30;
  Counts counts;
  auto engine =
      MakeEngine({.model_folder = Folder(1),
                  .version = PolicyVersion(1),
                  .limits = {.kv_pool_bytes = kPages * kPage + (kSequences + 1) * kQueries,
                             .check_pages = true},
                  .observer = {.compaction = [&](context::Method, double) { ++counts.events; },
                               .preempted = [&] { ++counts.preempted; }}});
  ASSERT_TRUE(engine.ok()) << engine.status();
  GenerationRequest r = Request(kSequences, 50);
  r.prompt.clear();
  for (int32_t i = 0; i < 64; ++i) r.prompt.push_back(40 + (i * 37) % 200);
  r.context = {.trigger = context::KvBudget{.budget = 100, .window = 64, .keep_ratio = 0.25},
               .reference_tokens = 24,
               .protect = 0};
  const auto sink = std::make_shared<Collector>(kSequences);
  ASSERT_TRUE((*engine)->Submit(r, sink).ok());
  sink->Wait();
  ASSERT_EQ(sink->finished.size(), static_cast<size_t>(kSequences));
  for (const auto& [sample, finished] : sink->finished) {
    EXPECT_THAT(LiveAtEvents(finished.rollout), testing::ElementsAre(100));
    EXPECT_EQ(finished.rollout.tokens.size(), 64u + 50u);
    ExpectReplays(**engine, finished.rollout);
  }
  EXPECT_EQ(counts.events, kSequences);
  EXPECT_EQ(counts.preempted, 0);
  ExpectPoolWhole(**engine);
}

TEST_F(PressureTest, WithoutPressureNothingComesEarly) {
  Counts calm;
  for (const rl::Rollout& r : Run(200, 0.5, calm)) {
    for (const int32_t live : LiveAtEvents(r)) EXPECT_EQ(live, 100);
  }
  EXPECT_EQ(calm.early, 0);
  EXPECT_EQ(calm.preempted, 0);
  EXPECT_GT(calm.events, 0);
}

}  // namespace
}  // namespace palimpsest::inference
