#include <algorithm>
#include <set>

#include "tests/unit/services/inference/engine/engine_testing.h"

// What a request asks about how its tokens are drawn, seen from outside of the engine.
namespace palimpsest::inference {
namespace {

using SamplingTest = EngineTest;

// Sampled tokens of the only sample.
std::vector<int32_t> Sampled(const rl::Rollout& r) {
  return {r.tokens.begin() + r.prompt_tokens, r.tokens.end()};
}

TEST_F(SamplingTest, AStopStringCutsTheTextAndLeavesTheIds) {
  auto engine = Make();
  const auto free_run = Generate(*engine, Request(1, 200));
  const rl::Rollout& r = free_run->finished[0].rollout;
  const std::vector<int32_t> sampled = Sampled(r);
  // The first printable byte behind the tenth token that has not been there before.
  size_t stop = 10;
  const auto fresh = [&](size_t i) {
    return sampled[i] > 32 && sampled[i] < 127 &&
           std::find(sampled.begin(), sampled.begin() + static_cast<ptrdiff_t>(i), sampled[i]) ==
               sampled.begin() + static_cast<ptrdiff_t>(i);
  };
  while (stop < sampled.size() && !fresh(stop)) ++stop;
  ASSERT_LT(stop, sampled.size());
  GenerationRequest asks = Request(1, 200);
  asks.sampling.stop_strings = {std::string(1, static_cast<char>(sampled[stop]))};
  const auto sink = Generate(*engine, asks);
  const Finished& f = sink->finished[0];
  EXPECT_EQ(f.rollout.finish_reason, rl::FinishReason::kStop);
  EXPECT_EQ(Sampled(f.rollout), std::vector(sampled.begin(), sampled.begin() + stop + 1));
  EXPECT_EQ(f.stop_string, asks.sampling.stop_strings[0]);
  EXPECT_EQ(f.text.find(asks.sampling.stop_strings[0]), std::string::npos);
  EXPECT_EQ(free_run->finished[0].text.find(f.text), 0u);
  EXPECT_EQ(sink->text_[0], f.text) << "what was streamed is cut as well";
}

TEST_F(SamplingTest, NothingStopsBeforeMinTokens) {
  auto engine = Make();
  const std::vector<int32_t> sampled =
      Sampled(Generate(*engine, Request(1, 60))->finished[0].rollout);
  GenerationRequest asks = Request(1, 60);
  for (int32_t id = 0; id < 257; ++id) asks.sampling.stop_ids.push_back(id);
  for (const int32_t least : {0, 1, 25}) {
    asks.sampling.min_tokens = least;
    const rl::Rollout r = Generate(*engine, asks)->finished[0].rollout;
    EXPECT_EQ(r.finish_reason, rl::FinishReason::kStop);
    EXPECT_EQ(Sampled(r), std::vector(sampled.begin(), sampled.begin() + std::max(1, least)));
  }
}

TEST_F(SamplingTest, TheModelsOwnStopIdsStopUnlessTheyAreIgnored) {
  const std::string folder = Root() + "/stops";
  std::filesystem::copy(Folder(1), folder);
  std::string ids = "0";
  for (int id = 1; id < 257; ++id) ids += ", " + std::to_string(id);
  std::ofstream(folder + "/generation_config.json") << "{\"eos_token_id\": [" << ids << "]}";
  auto engine = MakeEngine({.model_folder = folder, .version = PolicyVersion(1)});
  ASSERT_TRUE(engine.ok()) << engine.status();
  GenerationRequest asks = Request(1, 30);
  EXPECT_EQ(Sampled(Generate(**engine, asks)->finished[0].rollout).size(), 30u);
  asks.sampling.ignore_eos = false;
  const rl::Rollout r = Generate(**engine, asks)->finished[0].rollout;
  EXPECT_EQ(Sampled(r).size(), 1u);
  EXPECT_EQ(r.finish_reason, rl::FinishReason::kStop);
}

// Greedy, with a penalty that nothing seen survives, in the prompt or since.
TEST_F(SamplingTest, ARepetitionPenaltyKnowsThePromptAndWhatWasSampled) {
  auto engine = Make();
  GenerationRequest asks = Request(1, 60);
  asks.sampling.temperature = 0;
  const auto distinct = [&] {
    const rl::Rollout r = Generate(*engine, asks)->finished[0].rollout;
    return std::set<int32_t>(r.tokens.begin(), r.tokens.end()).size();
  };
  const size_t prompt = std::set<int32_t>(asks.prompt.begin(), asks.prompt.end()).size();
  EXPECT_LT(distinct(), prompt + 60) << "greedy repeats itself, else this shows nothing";
  asks.sampling.repetition_penalty = 100;
  EXPECT_EQ(distinct(), prompt + 60);
}

TEST_F(SamplingTest, WhatWasNotDrawnFromTheWholeDistributionIsFlagged) {
  auto engine = Make();
  const auto flagged = [&](const std::function<void(rl::SamplingParams&)>& changes) {
    GenerationRequest asks = Request(1, 4);
    changes(asks.sampling);
    return Generate(*engine, asks)->finished[0].rollout.truncated_sampling;
  };
  EXPECT_FALSE(flagged([](auto&) {}));
  EXPECT_FALSE(flagged([](auto& p) { p.temperature = 0.7; }));
  EXPECT_TRUE(flagged([](auto& p) { p.top_k = 5; }));
  EXPECT_TRUE(flagged([](auto& p) { p.top_p = 0.5; }));
  EXPECT_TRUE(flagged([](auto& p) { p.logit_bias[3] = 1; }));
}

TEST_F(SamplingTest, ADeadlineThatPassesEndsTheSampleWithWhatItHas) {
  RestlessClock clock;
  auto engine = MakeEngine({.model_folder = Folder(1),
                            .version = PolicyVersion(1),
                            .limits = {.max_running = 1, .check_pages = true},
                            .clock = &clock});
  ASSERT_TRUE(engine.ok()) << engine.status();
  (*engine)->Pause();
  GenerationRequest runs = Request(1, 500), waits = Request(2, 500);
  runs.deadline = waits.deadline = clock.Now() + absl::Seconds(300);
  waits.request_id = "waits";
  const auto running = std::make_shared<Collector>(1), waiting = std::make_shared<Collector>(2);
  ASSERT_TRUE((*engine)->Submit(runs, running).ok());
  ASSERT_TRUE((*engine)->Submit(waits, waiting).ok());
  (*engine)->Resume();
  running->Wait();
  waiting->Wait();
  ASSERT_EQ(running->failed.size(), 1u);
  const Failure& failure = running->failed.at(0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(failure.status)) << failure.status;
  ASSERT_TRUE(failure.partial.has_value());
  EXPECT_EQ(failure.partial->finish_reason, rl::FinishReason::kDeadline);
  EXPECT_GT(failure.partial->tokens.size(), 17u);
  ASSERT_EQ(waiting->failed.size(), 2u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting->failed.at(1).status));
  ExpectPoolWhole(**engine);
}

}  // namespace
}  // namespace palimpsest::inference
