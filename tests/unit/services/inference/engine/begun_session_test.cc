#include <gmock/gmock.h>

#include "absl/strings/str_format.h"
#include "common/context/log.h"
#include "tests/unit/services/inference/engine/session_testing.h"

// Sessions that are made from the log of one that was cut.
namespace palimpsest::inference {
namespace {

using testing::HasSubstr;

class BegunSessionTest : public SessionTest {
 protected:
  static std::unique_ptr<Engine> Exact(int folder = 1) {
    auto engine = MakeEngine({.model_folder = Folder(folder),
                              .version = PolicyVersion(folder),
                              .batch_invariant = true,
                              .limits = {.check_pages = true}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static SessionSpec From(rl::Rollout log, context::ContextPolicy context) {
    SessionSpec spec = Spec(std::move(context));
    spec.begun = std::move(log);
    return spec;
  }
  // The log after each of so many turns.
  static std::vector<rl::Rollout> Play(const SessionSpec& spec, int turns) {
    const auto engine = Exact();
    const std::string id = Open(*engine, spec).id;
    std::vector<rl::Rollout> logs;
    for (int turn = 0; turn < turns; ++turn) logs.push_back(Go(*engine, id, Words(9, turn)));
    return logs;
  }
  static std::string Refusal(const SessionSpec& spec) {
    const auto engine = Exact();
    const absl::Status status = engine->sessions()->Create(spec).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }
};

TEST_F(BegunSessionTest, ItStepsOnAsTheOneThatWroteTheLogToTheLastBit) {
  constexpr int kTurns = 6;
  for (const auto& context :
       {TurnBased(context::Method::kAttentionMatching), TurnBased(context::Method::kEvict),
        TurnBased(context::Method::kMarkovian),
        Budget(context::Method::kAttentionMatching, context::Chooser::kRms),
        context::ContextPolicy()}) {
    const std::vector<rl::Rollout> whole = Play(Spec(context), kTurns);
    for (const int cut : {1, 3, 4}) {
      const rl::Rollout& begun = whole[cut - 1];
      if (context.trigger.index() != 0) {
        ASSERT_LT(begun.events.size(), whole.back().events.size());
      }
      const auto engine = Exact();
      const SessionInfo info = Open(*engine, From(begun, context));
      EXPECT_EQ(info.tokens, std::ssize(begun.tokens));
      EXPECT_EQ(info.turns, cut);
      EXPECT_EQ(info.events, std::ssize(begun.events));
      EXPECT_FALSE(info.resident);
      for (int turn = cut; turn < kTurns; ++turn) {
        const rl::Rollout r = Go(*engine, info.id, Words(9, turn));
        ExpectSame(r, whole[turn]);
        EXPECT_EQ(r.prompt_tokens, 16);
        EXPECT_EQ(r.spans.front(), begun.spans.front());
        EXPECT_EQ(r.spans.back().kv_epoch, 1);
        EXPECT_EQ(r.spans.back().begin, std::ssize(begun.tokens));
      }
      EXPECT_EQ(Find(*engine, info.id).turns, kTurns);
      engine->sessions()->Delete(info.id);
      ExpectPoolWhole(*engine);
    }
  }
}

// The control: a token that the session never had. Under an event the digest tells; behind the last
// one nobody can know, and what follows has other bits.
TEST_F(BegunSessionTest, AnotherTokenIsRefusedOrGivesOtherLogProbabilities) {
  const auto context = TurnBased(context::Method::kEvict);
  const std::vector<rl::Rollout> whole = Play(Spec(context), 5);
  rl::Rollout changed = whole[3];
  ASSERT_GE(changed.events.size(), 1u);
  changed.tokens[20] ^= 1;
  EXPECT_THAT(Refusal(From(changed, context)), HasSubstr("begun.events[0]"));
  changed = whole[3];
  ASSERT_LT(changed.events.back().at, std::ssize(changed.tokens) - 2);
  changed.tokens[changed.tokens.size() - 2] ^= 1;
  const auto engine = Exact();
  const rl::Rollout r = Go(*engine, Open(*engine, From(changed, context)).id, Words(9, 4));
  const size_t next = changed.tokens.size() + 9;
  EXPECT_NE(r.logprobs[next], whole[4].logprobs[next]);
}

TEST_F(BegunSessionTest, EventsThatWereAskedForOrForcedAreReplayed) {
  const context::ContextPolicy context{.trigger = context::Manual{.keep_ratio = 0.3},
                                       .reference_tokens = 24};
  const auto engine = Exact();
  const std::string id = Open(*engine, Spec(context)).id;
  const auto tokens = static_cast<int32_t>(Go(*engine, id, Words(20, 1)).tokens.size());
  GenerationRequest asks = Step(id, tokens, {}, 1);
  asks.step->compact = context::Range{16, 40};
  context::Event forced = Generate(*engine, asks)->finished[0].rollout.events[0];
  engine->sessions()->Delete(id);
  const std::string again = Open(*engine, Spec(context)).id;
  Go(*engine, again, Words(20, 1));
  forced.digest.reset();
  forced.kept = context::KeptPositions(forced.kept.shape());
  for (int head = 0; head < 3 * 2; ++head) {  // of other numbers, and more than are chosen
    std::vector<int32_t> positions;
    for (int32_t p = 17; p < 40; p += 1 + head % 2) positions.push_back(p);
    forced.kept.AddHead(positions);
  }
  asks.step->id = again;
  asks.step->forced = forced;
  const rl::Rollout begun = Generate(*engine, asks)->finished[0].rollout;
  ASSERT_EQ(begun.events.size(), 1u);
  const rl::Rollout whole = Go(*engine, again, Words(9, 2));
  const auto other = Exact();
  const std::string made = Open(*other, From(begun, context)).id;
  ExpectSame(Go(*other, made, Words(9, 2)), whole);
  EXPECT_THAT(Refusal(From(begun, TurnBased(context::Method::kAttentionMatching))),
              HasSubstr("begun.events[0].at=47: the request's context makes none there"));
}

TEST_F(BegunSessionTest, WhatTheStepsBeforeItMeantForTheNextOneIsInTheLog) {
  rl::Rollout log = Play(Spec(), 2).back();
  const auto tokens = static_cast<int32_t>(log.tokens.size());
  const auto engine = Exact();
  // After a length it may go on without a word, after a stop it may not.
  ASSERT_EQ(log.finish_reason, rl::FinishReason::kLength);
  SessionSpec spec = From(log, {});
  const std::string id = Open(*engine, spec).id;
  EXPECT_EQ(Open(*engine, spec).id, id) << "asked for twice: the same session";
  const auto fork = engine->sessions()->Fork("fork", id, {11});
  EXPECT_EQ(Go(*engine, id, {}, 3).tokens, Go(*engine, fork->front().id, {}, 3).tokens);
  spec.begun->finish_reason = rl::FinishReason::kStop;
  EXPECT_TRUE(absl::IsAlreadyExists(engine->sessions()->Create(spec).status()));
  spec.request_id = "stopped";
  const std::string stopped = Open(*engine, spec).id;
  EXPECT_THAT(
      engine->Submit(Step(stopped, tokens, {}, 3), std::make_shared<Collector>(1)).message(),
      HasSubstr("new_ids is empty"));
  // What is drawn otherwise than what stands there is no sample of one distribution.
  EXPECT_FALSE(Go(*engine, stopped, Words(4, 1)).truncated_sampling);
  spec.request_id = "warmer";
  GenerationRequest warmer = Step(Open(*engine, spec).id, tokens, Words(4, 1), 3);
  warmer.sampling.temperature = 2;
  EXPECT_TRUE(Generate(*engine, warmer)->finished[0].rollout.truncated_sampling);
}

TEST_F(BegunSessionTest, OtherWeightsGoOnInASpanOfTheirOwn) {
  const auto context = TurnBased(context::Method::kAttentionMatching);
  rl::Rollout begun = Play(Spec(context), 3).back();
  for (context::Event& event : begun.events) event.digest.reset();
  const auto engine = Exact(2);
  const rl::Rollout r = Go(*engine, Open(*engine, From(begun, context)).id, Words(9, 3));
  const auto cut = static_cast<int32_t>(begun.tokens.size());
  const auto end = static_cast<int32_t>(r.tokens.size());
  EXPECT_THAT(r.spans, testing::ElementsAre(rl::Span{16, cut, PolicyVersion(1), 0},
                                            rl::Span{cut, end, PolicyVersion(2), 1}));
  ASSERT_GT(r.events.size(), begun.events.size());
  EXPECT_TRUE(context::CheckLog({3, 2}, r.tokens, r.events).ok()) << "digests were filled in";
  const auto score = engine->Score({.tokens = r.tokens, .events = r.events});
  for (int32_t p = end - 12; p < end; ++p)
    EXPECT_NEAR(score->logprobs[p - 1], r.logprobs[p], 2e-4) << "of the new weights alone";
}

TEST_F(BegunSessionTest, WhatDoesNotFitIsRefusedByItsName) {
  const auto context = TurnBased(context::Method::kEvict);
  const SessionSpec good = From(Play(Spec(context), 4).back(), context);
  const auto refusal = [&](const std::function<void(SessionSpec&, rl::Rollout&)>& spoil) {
    SessionSpec spec = good;
    spoil(spec, *spec.begun);
    return Refusal(spec);
  };
  const int32_t first = good.begun->events.at(0).at;
  EXPECT_THAT(refusal([](auto& s, auto&) { s.prompt.clear(); }), HasSubstr("prompt_ids is empty"));
  EXPECT_THAT(refusal([](auto& s, auto&) { s.prompt.pop_back(); }),
              HasSubstr("begun.prompt_tokens=16 are not the request's prompt of 15"));
  EXPECT_THAT(refusal([](auto& s, auto&) { s.prompt[2] ^= 1; }), HasSubstr("begun.prompt_tokens"));
  EXPECT_THAT(refusal([](auto& s, auto&) { s.seed = 5; }),
              HasSubstr("begun.seed=11, the request's is 5"));
  EXPECT_THAT(refusal([](auto&, auto& b) { b.sample = 3; }), HasSubstr("begun.sample=3"));
  EXPECT_THAT(refusal([](auto&, auto& b) { b.tokens.back() = 300; }),
              HasSubstr("]=300 is not in [0, 257)"));
  EXPECT_THAT(refusal([](auto&, auto& b) { b.logprobs.back() = 5; }), HasSubstr("]=5 is above 0"));
  EXPECT_THAT(refusal([](auto&, auto& b) { b.events[0].digest->bytes[0] ^= 1; }),
              HasSubstr("begun.events[0]"));
  EXPECT_THAT(refusal([](auto& s, auto&) { s.context = {}; }),
              HasSubstr(absl::StrFormat("begun.events[0].at=%d: the request's context makes none "
                                        "there",
                                        first)));
  EXPECT_THAT(
      refusal([](auto& s, auto&) { s.context.parameters.chooser = context::Chooser::kRecent; }),
      HasSubstr("begun.events[0] is not what the request's context makes"));
  EXPECT_THAT(refusal([](auto&, auto& b) { b.events.clear(); }),
              HasSubstr(absl::StrFormat("begun.events: the request's context makes one at %d, the "
                                        "log does not",
                                        first)));
  // Two more turns would stand before the first event: its turns are not those of this context.
  EXPECT_THAT(
      refusal([](auto& s, auto&) { std::get<context::Turns>(s.context.trigger).max_turns = 4; }),
      HasSubstr("makes none there"));
  // Nor is a log whose second turn does not show: its step brought nothing new.
  EXPECT_THAT(refusal([](auto&, auto& b) {
                for (size_t t = 16 + 9 + 12; t < 16 + 9 + 12 + 9; ++t)
                  b.origins[t] = rl::Origin::kSampled;
              }),
              HasSubstr("makes none there"));
}

}  // namespace
}  // namespace palimpsest::inference
