#include <gmock/gmock.h>

#include <numeric>

#include "common/context/log.h"
#include "tests/unit/services/inference/engine/engine_testing.h"

// Samples that were cut go on from their logs.
namespace palimpsest::inference {
namespace {

using testing::HasSubstr;

class BegunTest : public EngineTest {
 protected:
  static std::unique_ptr<Engine> Exact() {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .batch_invariant = true,
                              .limits = {.check_pages = true}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static GenerationRequest Compacting(context::Method method) {
    GenerationRequest r = Request(3, 100);
    r.context = Budget(method, context::Chooser::kRms);
    if (method == context::Method::kEvict) r.context.parameters.chooser = context::Chooser::kRecent;
    return r;
  }
  // What an abort leaves of a sample when it has so many tokens.
  static rl::Rollout CutAt(size_t tokens, rl::Rollout r) {
    r.tokens.resize(tokens);
    r.origins.resize(tokens);
    r.logprobs.resize(tokens);
    std::erase_if(r.events, [&](const auto& e) { return e.at >= static_cast<int32_t>(tokens); });
    r.spans = {{r.prompt_tokens, static_cast<int32_t>(tokens), PolicyVersion(1), 0}};
    r.finish_reason = rl::FinishReason::kCancelled;
    return r;
  }
  static std::vector<rl::Rollout> CutAfter(size_t sampled, const GenerationRequest& r) {
    const auto whole = Generate(*Exact(), r);
    std::vector<rl::Rollout> begun;
    for (const auto& [sample, finished] : whole->finished)
      begun.push_back(CutAt(r.prompt.size() + sampled, finished.rollout));
    return begun;
  }
};

TEST_F(BegunTest, InAnotherEngineTheyEndAsIfNobodyHadCutThem) {
  for (const auto method : {context::Method::kAttentionMatching, context::Method::kEvict,
                            context::Method::kMarkovian}) {
    GenerationRequest r = Compacting(method);
    const auto whole = Generate(*Exact(), r);
    std::vector<rl::Rollout> begun = CutAfter(60, r);
    ASSERT_EQ(begun.size(), 3u);
    ASSERT_GE(begun[0].events.size(), 1u);
    ASSERT_LT(begun[0].tokens.size(), whole->finished[0].rollout.tokens.size());
    begun.erase(begun.begin() + 1);  // this one begins with the prompt
    r.begun = begun;
    const auto engine = Exact();
    const auto later = Generate(*engine, r);
    ASSERT_EQ(later->finished.size(), 3u);
    for (int sample = 0; sample < 3; ++sample) {
      ExpectSame(later->finished[sample].rollout, whole->finished[sample].rollout);
      EXPECT_EQ(later->finished[sample].text, whole->finished[sample].text);
    }
    // Told on the way is what is new, of the second cache.
    const rl::Rollout& first = later->finished[0].rollout;
    EXPECT_EQ(later->streamed_[0].size(), first.tokens.size() - begun[0].tokens.size());
    EXPECT_EQ(later->events_[0], std::ssize(first.events) - std::ssize(begun[0].events));
    const auto cut = static_cast<int32_t>(begun[0].tokens.size());
    const auto end = static_cast<int32_t>(first.tokens.size());
    EXPECT_THAT(first.spans, testing::ElementsAre(rl::Span{16, cut, PolicyVersion(1), 0},
                                                  rl::Span{cut, end, PolicyVersion(1), 1}));
    ExpectPoolWhole(*engine);
  }
}

// The control: had the event kept the oldest positions instead of the newest, the sample would go
// on from another memory.
TEST_F(BegunTest, AnotherLogGivesOtherLogProbabilities) {
  GenerationRequest r = Compacting(context::Method::kEvict);
  r.n = 1;
  const auto whole = Generate(*Exact(), r);
  r.begun = CutAfter(28, r);
  rl::Rollout& begun = r.begun[0];
  ASSERT_EQ(begun.events.size(), 1u);
  context::Event& event = begun.events[0];
  context::KeptPositions oldest(event.kept.shape());
  std::vector<int32_t> positions(event.kept.at(0, 0).size());
  std::iota(positions.begin(), positions.end(), event.window.begin);
  for (int head = 0; head < 3 * 2; ++head) oldest.AddHead(positions);
  ASSERT_NE(event.kept, oldest);
  event.kept = oldest;
  event.digest.reset();
  ASSERT_TRUE(context::CompleteDigests(begun.tokens, begun.events).ok());
  const auto later = Generate(*Exact(), r);
  ASSERT_EQ(later->finished.size(), 1u);
  const size_t next = begun.tokens.size();
  EXPECT_GT(std::abs(later->finished[0].rollout.logprobs[next] -
                     whole->finished[0].rollout.logprobs[next]),
            1e-3);
}

TEST_F(BegunTest, DigestsThatTheirEventsLackAreFilledIn) {
  GenerationRequest r = Compacting(context::Method::kEvict);
  r.n = 1;
  const auto whole = Generate(*Exact(), r);
  r.begun = CutAfter(40, r);
  ASSERT_GE(r.begun[0].events.size(), 1u);
  for (context::Event& event : r.begun[0].events) event.digest.reset();
  const auto later = Generate(*Exact(), r);
  ASSERT_EQ(later->finished.size(), 1u);
  ASSERT_GT(later->finished[0].rollout.events.size(), r.begun[0].events.size());
  ExpectSame(later->finished[0].rollout, whole->finished[0].rollout);
}

TEST_F(BegunTest, NothingIsLostWhenTheyAreCutAgainBeforeTheirTurn) {
  GenerationRequest r = Compacting(context::Method::kEvict);
  const std::vector<rl::Rollout> begun = CutAfter(30, r);
  r.begun = {begun[1]};
  const auto engine = Exact();
  engine->Pause();
  const auto sink = std::make_shared<Collector>(3);
  ASSERT_TRUE(engine->Submit(r, sink).ok());
  engine->Cancel("r");
  sink->Wait();
  ASSERT_TRUE(sink->failed.at(1).partial.has_value());
  EXPECT_EQ(sink->failed.at(1).partial->tokens, begun[1].tokens);
  EXPECT_FALSE(sink->failed.at(0).partial.has_value());
}

TEST_F(BegunTest, WhatAnAbortLeavesIsTheBeginningOfTheWhole) {
  GenerationRequest r = Compacting(context::Method::kEvict);
  r.sampling.max_tokens = 500;
  const auto whole = Generate(*Exact(), r);
  const auto engine = Exact();
  const auto sink = std::make_shared<Collector>(r.n);
  ASSERT_TRUE(engine->Submit(r, sink).ok());
  sink->WaitForTokens(60);
  engine->AbortAll("", "enough");
  sink->Wait();
  ASSERT_EQ(sink->failed.size(), 3u);
  for (const auto& [sample, failure] : sink->failed) {
    const rl::Rollout& partial = failure.partial.value();
    const rl::Rollout cut = CutAt(partial.tokens.size(), whole->finished[sample].rollout);
    EXPECT_EQ(partial.tokens, cut.tokens);
    EXPECT_EQ(partial.logprobs, cut.logprobs);
    EXPECT_EQ(partial.spans, cut.spans);
    EXPECT_EQ(partial.finish_reason, cut.finish_reason);
    // The event before the last token may be still to come.
    EXPECT_THAT(cut.events.size() - partial.events.size(), testing::AnyOf(0u, 1u));
  }
}

TEST_F(BegunTest, NoMoreRunThanMay) {
  GenerationRequest r = Compacting(context::Method::kEvict);
  r.begun = CutAfter(20, r);
  std::atomic<Engine*> made = nullptr;
  std::atomic<int> most = 0;
  auto engine = MakeEngine({.model_folder = Folder(1),
                            .version = PolicyVersion(1),
                            .limits = {.max_running = 2, .check_pages = true},
                            .observer = {.step = [&](double, int) {
                              if (Engine* e = made) most = std::max<int>(most, e->load().running);
                            }}});
  ASSERT_TRUE(engine.ok());
  made = engine->get();
  EXPECT_EQ(Generate(**engine, r)->finished.size(), 3u);
  EXPECT_EQ(most, 2);
}

// Replay would ask for references that nobody has recorded.
TEST_F(BegunTest, EventsListenToWhatTheRequestsContextRecords) {
  GenerationRequest r = Compacting(context::Method::kAttentionMatching);
  r.begun = CutAfter(28, r);
  const auto engine = Exact();
  const auto refusal = [&](const std::function<void(context::Event&)>& spoil) {
    GenerationRequest spoilt = r;
    for (rl::Rollout& begun : spoilt.begun) {
      spoil(begun.events[0]);
      for (context::Event& event : begun.events) event.digest.reset();
    }
    return std::string(engine->Submit(spoilt, std::make_shared<Collector>(r.n)).message());
  };
  const auto all = [](context::Event& e) { e.reference = {0, e.at}; };
  const auto keys = [](context::Event& e) {
    e.parameters.reference_kind = context::ReferenceKind::kKeys;
  };
  constexpr char kNotOurs[] = "events[0] is not what the request's context makes at 40";
  EXPECT_THAT(refusal(all), HasSubstr(kNotOurs));
  EXPECT_THAT(refusal(keys), HasSubstr(kNotOurs));
  // Where events may come early, these come as early as they may.
  r.context.trigger =
      context::KvBudget{.budget = 50, .window = 20, .keep_ratio = 0.4, .early = 0.5};
  EXPECT_THAT(refusal(all), HasSubstr(kNotOurs));
  EXPECT_THAT(refusal(keys), HasSubstr(kNotOurs));
  EXPECT_EQ(Generate(*engine, r)->finished.size(), 3u);
}

TEST_F(BegunTest, WhatDoesNotFitIsRefusedByItsName) {
  GenerationRequest good = Compacting(context::Method::kEvict);
  good.begun = CutAfter(40, good);
  const auto engine = Exact();
  const auto refusal = [&](const std::function<void(GenerationRequest&)>& spoil) {
    GenerationRequest r = good;
    spoil(r);
    const absl::Status status = engine->Submit(r, std::make_shared<Collector>(r.n));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  const auto of_second = [&](const std::function<void(rl::Rollout&)>& spoil) {
    return refusal([&](GenerationRequest& r) { spoil(r.begun[1]); });
  };
  EXPECT_THAT(of_second([](auto& b) { b.sample = 3; }),
              HasSubstr("begun[1].sample=3 is not in [0, 3)"));
  EXPECT_THAT(of_second([](auto& b) { b.sample = 0; }),
              HasSubstr("begun[1].sample=0 does not rise"));
  EXPECT_THAT(of_second([](auto& b) { b.seed = 5; }), HasSubstr("begun[1].seed=5"));
  EXPECT_THAT(of_second([](auto& b) { b.temperature = 2; }), HasSubstr("begun[1].temperature=2"));
  EXPECT_THAT(of_second([](auto& b) { b.greedy = true; }), HasSubstr("begun[1].greedy=1"));
  EXPECT_THAT(of_second([](auto& b) { b.finish_reason = rl::FinishReason::kStop; }),
              HasSubstr("begun[1].finish_reason=1"));
  EXPECT_THAT(of_second([](auto& b) { b.tokens[3] ^= 1; }), HasSubstr("begun[1].prompt_tokens=16"));
  EXPECT_THAT(of_second([](auto& b) { b.tokens.back() = 300; }),
              HasSubstr("]=300 is not in [0, 257)"));
  EXPECT_THAT(of_second([](auto& b) { b.events[0].digest->bytes[0] ^= 1; }),
              HasSubstr("begun[1].events[0]"));
  EXPECT_THAT(
      of_second([](auto& b) { b.events.clear(); }),
      HasSubstr("begun[1].events: the request's context makes one at 40, the log does not"));
  EXPECT_THAT(refusal([](auto& r) { r.context = {}; }),
              HasSubstr("begun[0].events[0].at=40: the request's context makes none there"));
  EXPECT_THAT(refusal([](auto& r) { r.context.parameters.chooser = context::Chooser::kRandom; }),
              HasSubstr("begun[0].events[0] is not what the request's context makes at 40"));
  EXPECT_THAT(of_second([](auto& b) { b.spans[0].kv_epoch = INT32_MAX; }), HasSubstr("kv_epoch"));
  EXPECT_THAT(of_second([](auto& b) { b.logprobs.back() = 5; }), HasSubstr("]=5 is above 0"));
  EXPECT_THAT(of_second([](auto& b) { b.seconds = 1e300; }), HasSubstr("duration_seconds=1e+300"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.max_tokens = 5; }), HasSubstr("max_tokens is 5"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.prompt_logprobs = 0; }),
              HasSubstr("prompt_logprobs"));
}

}  // namespace
}  // namespace palimpsest::inference
