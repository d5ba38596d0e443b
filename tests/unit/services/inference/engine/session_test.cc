#include "tests/unit/services/inference/engine/session_testing.h"

namespace palimpsest::inference {
namespace {

// Draws are keyed by seed, sample and position, so a request with the whole history as its prompt
// draws what the session's step drew.
TEST_F(SessionTest, AStepEqualsAFreshPrefillOfTheWholeConversation) {
  auto engine = Make();
  const std::string id = Open(*engine, Spec()).id;
  std::vector<int32_t> history = Spec().prompt;
  for (int turn = 0; turn < 4; ++turn) {
    const std::vector<int32_t> said = Words(5 + turn, turn);
    history.insert(history.end(), said.begin(), said.end());
    GenerationRequest fresh = Request(1, 12);
    fresh.prompt = history;
    const rl::Rollout expected = Generate(*engine, fresh)->finished[0].rollout;
    const rl::Rollout got = Go(*engine, id, said);
    EXPECT_EQ(got.tokens, expected.tokens);
    for (size_t p = history.size(); p < got.tokens.size(); ++p)
      EXPECT_NEAR(got.logprobs[p], expected.logprobs[p], 1e-5);
    EXPECT_EQ(got.prompt_tokens, 16);
    EXPECT_EQ(got.origins[history.size() - 1], rl::Origin::kInjected);
    history = got.tokens;
  }
  const SessionInfo info = Find(*engine, id);
  EXPECT_EQ(info.turns, 4);
  EXPECT_EQ(info.tokens, static_cast<int32_t>(history.size()));
  EXPECT_TRUE(info.resident);
  EXPECT_FALSE(info.busy);
}

TEST_F(SessionTest, TurnsAreCompactedWhenTheNextStepBeginsAndTheLogReplays) {
  auto engine = Make();
  for (const auto method : {context::Method::kAttentionMatching, context::Method::kEvict,
                            context::Method::kMarkovian}) {
    SessionSpec spec = Spec(TurnBased(method));
    spec.request_id = std::string(Name(method));
    const std::string id = Open(*engine, spec).id;
    std::vector<int32_t> begins;
    rl::Rollout r;
    for (int turn = 0; turn < 6; ++turn) {
      begins.push_back(Find(*engine, id).tokens);
      r = Go(*engine, id, Words(9, turn));
    }
    // Two whole turns must stand before the first event; from then on each step has one.
    ASSERT_EQ(r.events.size(), 4u);
    for (size_t e = 0; e < r.events.size(); ++e) {
      EXPECT_EQ(r.events[e].at, begins[e + 2]);
      EXPECT_EQ(r.events[e].window.begin, 16);
      EXPECT_EQ(r.events[e].window.end, begins[e + 1]);
    }
    ExpectReplays(*engine, r);
  }
}

TEST_F(SessionTest, WhatDoesNotFitTheSessionIsRefusedByName) {
  auto engine = Make();
  const std::string id = Open(*engine, Spec()).id;
  const auto expect = [&](GenerationRequest step, absl::StatusCode code, const char* part) {
    const absl::Status status = Refusal(*engine, std::move(step));
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  };
  expect(Step("nobody", 16, {1}, 4), absl::StatusCode::kNotFound, "session_id=nobody");
  expect(Step(id, 15, {1}, 4), absl::StatusCode::kFailedPrecondition, "expected_tokens=15");
  expect(Step(id, 16, {900}, 4), absl::StatusCode::kInvalidArgument, "900");
  GenerationRequest asks = Step(id, 16, {}, 4);
  asks.step->compact = context::Range{0, 4};
  expect(asks, absl::StatusCode::kFailedPrecondition, "manual");
  // While a step runs there is no other, and no fork.
  auto running = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(Step(id, 16, {1}, 400), running).ok());
  expect(Step(id, 17, {1}, 4), absl::StatusCode::kAborted, "a step of it runs");
  EXPECT_TRUE(absl::IsAborted(engine->sessions()->Fork("f", id, {1}).status()));
  running->Wait();
  // After a length the answer may just go on; after a stop it may not.
  const rl::Rollout more = Go(*engine, id, {}, 3);
  EXPECT_EQ(more.tokens.size(), 16 + 1 + 400 + 3u);
  GenerationRequest stops = Step(id, 420, {3}, 50);
  for (int32_t i = 0; i < 257; ++i) stops.sampling.stop_ids.push_back(i);
  Generate(*engine, stops);
  expect(Step(id, 422, {}, 4), absl::StatusCode::kFailedPrecondition, "new_ids is empty");
}

TEST_F(SessionTest, ASessionGoesOnAfterItsStepWasCancelled) {
  auto engine = Make();
  const std::string id = Open(*engine, Spec()).id;
  auto sink = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(Step(id, 16, {5, 6}, 500), sink).ok());
  sink->WaitForTokens(10);
  engine->Cancel("step");
  sink->Wait();
  ASSERT_EQ(sink->failed.size(), 1u);
  const rl::Rollout partial = *sink->failed.at(0).partial;
  EXPECT_GE(partial.tokens.size(), 28u);
  const rl::Rollout after = Go(*engine, id, {7, 8});
  EXPECT_TRUE(std::equal(partial.tokens.begin(), partial.tokens.end(), after.tokens.begin()));
  ExpectReplays(*engine, after);
}

TEST_F(SessionTest, ForksGoOnFromTheSamePlaceWithTheirOwnSeeds) {
  auto engine = Make();
  const std::string id = Open(*engine, Spec(TurnBased(context::Method::kAttentionMatching))).id;
  for (int turn = 0; turn < 3; ++turn) Go(*engine, id, Words(9, turn));
  const auto forks = engine->sessions()->Fork("fork", id, {11, 12});
  ASSERT_TRUE(forks.ok()) << forks.status();
  const rl::Rollout own = Go(*engine, id, Words(4, 9));
  const rl::Rollout same = Go(*engine, forks->at(0).id, Words(4, 9));
  const rl::Rollout other = Go(*engine, forks->at(1).id, Words(4, 9));
  EXPECT_EQ(own.tokens, same.tokens);
  EXPECT_EQ(own.logprobs, same.logprobs);
  EXPECT_NE(own.tokens, other.tokens);
  ExpectReplays(*engine, other);
  // Asked again, the same forks; created again, the same session, and no other under its id.
  EXPECT_EQ(engine->sessions()->Fork("fork", id, {11, 12})->at(1).id, forks->at(1).id);
  EXPECT_TRUE(absl::IsAlreadyExists(engine->sessions()->Fork("fork", id, {11}).status()));
  EXPECT_EQ(Open(*engine, Spec(TurnBased(context::Method::kAttentionMatching))).id, id);
  EXPECT_TRUE(absl::IsAlreadyExists(engine->sessions()->Create(Spec()).status()));
  for (const SessionInfo& info : engine->sessions()->List("")) {
    EXPECT_TRUE(engine->sessions()->Delete(info.id));
    EXPECT_FALSE(engine->sessions()->Delete(info.id));
  }
  ExpectPoolWhole(*engine);
  const absl::Status gone = Refusal(*engine, Step(id, 1, {1}, 4));
  EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
  EXPECT_NE(gone.message().find("deleted"), std::string::npos) << gone;
}

TEST_F(SessionTest, AnEventCanBeAskedForBetweenTwoSteps) {
  auto engine = Make();
  SessionSpec spec = Spec({.trigger = context::Manual{.keep_ratio = 0.3}, .reference_tokens = 24});
  const std::string id = Open(*engine, spec).id;
  const int32_t tokens = static_cast<int32_t>(Go(*engine, id, Words(20, 1)).tokens.size());
  GenerationRequest asks = Step(id, tokens, {}, 1);
  asks.step->compact = context::Range{4, 20};  // inside the protected prompt
  const auto refused = Generate(*engine, asks);
  ASSERT_EQ(refused->failed.size(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(refused->failed.at(0).status));
  asks.step->compact = context::Range{16, 40};
  const auto done = Generate(*engine, asks);
  ASSERT_EQ(done->finished.size(), 1u);
  ASSERT_EQ(done->finished[0].rollout.events.size(), 1u);
  EXPECT_EQ(done->finished[0].rollout.tokens.size(), static_cast<size_t>(tokens));
  EXPECT_EQ(done->finished[0].rollout.events[0].at, tokens - 1);
  EXPECT_LT(Find(*engine, id).live_count, tokens - 10);
  EXPECT_EQ(Find(*engine, id).turns, 1);
  const rl::Rollout r = Go(*engine, id, {});
  EXPECT_EQ(r.events.size(), 1u);
  ExpectReplays(*engine, r);
}

// Positions of an event of another session, which has the same tokens but chose by other rules, are
// kept as they are: log, digest and what comes after are those of a sequence that had this event.
TEST_F(SessionTest, AnEventMayKeepThePositionsThatTheCallerForces) {
  for (const auto method : {context::Method::kAttentionMatching, context::Method::kEvict}) {
    auto engine = Make();
    SessionSpec spec = Spec(
        {.trigger = context::Manual{.keep_ratio = 0.3}, .method = method, .reference_tokens = 24});
    spec.context.parameters.chooser = context::DefaultChooser(method);
    const std::string id = Open(*engine, spec).id;
    const int32_t tokens = static_cast<int32_t>(Go(*engine, id, Words(20, 1)).tokens.size());
    const std::string fork = engine->sessions()->Fork("fork", id, {11})->front().id;
    GenerationRequest asks = Step(fork, tokens, {}, 1);
    asks.step->compact = context::Range{16, 40};
    const context::Event chosen = Generate(*engine, asks)->finished[0].rollout.events[0];
    // Every head keeps other positions, and not all as many.
    context::Event forced = chosen;
    forced.digest.reset();
    forced.kept = context::KeptPositions(chosen.kept.shape());
    for (int head = 0; head < 3 * 2; ++head) {
      std::vector<int32_t> positions;
      for (int32_t p = 17 + head; p < 40; p += 3 + head % 2) positions.push_back(p);
      forced.kept.AddHead(positions);
    }
    asks.step->id = id;
    const auto refused = [&](const char* field, const auto& breaks) {
      asks.step->forced = forced;
      breaks(*asks.step->forced);
      const auto sink = Generate(*engine, asks);
      ASSERT_EQ(sink->failed.size(), 1u) << field;
      const absl::Status status = sink->failed.at(0).status;
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_EQ(status.message().find(field), 0u) << status;
    };
    refused("forced.at", [](auto& e) { e.at -= 1; });
    refused("forced.method", [](auto& e) { e.method = context::Method::kMarkovian; });
    refused("forced.parameters", [](auto& e) { e.parameters.seed = 7; });
    refused("forced.reference", [](auto& e) { e.reference.begin += 1; });
    refused("forced.digest", [](auto& e) { e.digest = context::Digest{}; });
    refused("forced.kept", [](auto& e) {
      e.kept = context::KeptPositions({3, 2});
      for (int head = 0; head < 6; ++head) e.kept.AddHead(std::vector<int32_t>{15});
    });
    asks.step->forced = forced;
    const auto done = Generate(*engine, asks);
    ASSERT_EQ(done->finished.size(), 1u);
    const context::Event& made = done->finished[0].rollout.events[0];
    EXPECT_EQ(made.kept, forced.kept);
    EXPECT_NE(made.digest, chosen.digest);
    EXPECT_GT(made.quality.output_error, 0);
    EXPECT_EQ(Generate(*engine, asks)->finished.size(), 1u) << "asked for twice: the same event";
    const rl::Rollout r = Go(*engine, id, Words(5, 2));
    ASSERT_EQ(r.events.size(), 1u);
    ExpectReplays(*engine, r);
  }
}

// Sessions whose KV was taken are built again from their logs, and nothing but the epoch tells.
TEST_F(SessionTest, UnderPressureRestingSessionsGiveTheirMemoryAndComeBackByTheirLogs) {
  const auto run = [&](int64_t bytes, int32_t* epochs) {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .batch_invariant = true,
                              .limits = {.kv_pool_bytes = bytes, .check_pages = true}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    std::vector<std::string> ids;
    for (int i = 0; i < 4; ++i) {
      SessionSpec spec = Spec(TurnBased(context::Method::kAttentionMatching));
      spec.request_id = "s" + std::to_string(i);
      spec.seed = i;
      ids.push_back(Open(**engine, spec).id);
    }
    std::vector<std::vector<float>> logprobs;
    for (int turn = 0; turn < 4; ++turn) {
      for (const std::string& id : ids) {
        const rl::Rollout r = Go(**engine, id, Words(40, turn), 20);
        logprobs.push_back(r.logprobs);
        *epochs = std::max(*epochs, r.spans.back().kv_epoch);
        ExpectReplays(**engine, r);
      }
    }
    return logprobs;
  };
  int32_t roomy = 0, tight = 0;
  const auto expected = run(64 << 20, &roomy);
  EXPECT_EQ(run(350 << 10, &tight), expected);
  EXPECT_EQ(roomy, 0);
  EXPECT_GT(tight, 0);
}

TEST_F(SessionTest, NewWeightsAreMetByTheNextStepAsTheModeSays) {
  for (const auto mode : {WeightsMode::kKeep, WeightsMode::kRecompute, WeightsMode::kFinish}) {
    auto engine = Make();
    const std::string id = Open(*engine, Spec()).id;
    Go(*engine, id, Words(5, 1));
    ASSERT_TRUE(engine->UpdateWeights(Folder(2), PolicyVersion(2), mode).ok());
    const rl::Rollout r = Go(*engine, id, Words(5, 2));
    ASSERT_EQ(r.spans.size(), 2u);
    EXPECT_EQ(r.spans[1].version, PolicyVersion(2));
    EXPECT_EQ(r.spans[1].kv_epoch, mode == WeightsMode::kKeep ? 0 : 1);
    // With the KV built again the new tokens are those of the new weights alone.
    const auto score = engine->Score({.tokens = r.tokens});
    double worst = 0;
    for (size_t p = r.tokens.size() - 12; p < r.tokens.size(); ++p)
      worst = std::max<double>(worst, std::abs(score->logprobs[p - 1] - r.logprobs[p]));
    if (mode == WeightsMode::kKeep)
      EXPECT_GT(worst, 1e-2);
    else
      EXPECT_LT(worst, 2e-4);
  }
}

TEST_F(SessionTest, IdleSessionsEndAndSayWhy) {
  auto engine = Make({.max_sessions = 2});
  SessionSpec spec = Spec();
  spec.ttl = absl::Milliseconds(50);
  const std::string id = Open(*engine, spec).id;
  spec.request_id = "other";
  spec.ttl = absl::Hours(1);
  Open(*engine, spec);
  spec.request_id = "third";
  EXPECT_TRUE(absl::IsResourceExhausted(engine->sessions()->Create(spec).status()));
  SystemClock().SleepFor(absl::Milliseconds(60));
  EXPECT_EQ(engine->sessions()->List("").size(), 1u);
  const absl::Status gone = Refusal(*engine, Step(id, 16, {1}, 4));
  EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
  EXPECT_NE(gone.message().find("ttl"), std::string::npos) << gone;
  EXPECT_TRUE(engine->sessions()->Create(spec).ok());
}

// Steps of many sessions share forward passes: none waits for another.
TEST_F(SessionTest, StepsOfManySessionsDecodeTogether) {
  std::atomic<int> most = 0;
  auto engine = MakeEngine(
      {.model_folder = Folder(1),
       .version = PolicyVersion(1),
       .limits = {.check_pages = true},
       .observer = {.step = [&](double, int rows) { most = std::max<int>(most, rows); }}});
  ASSERT_TRUE(engine.ok());
  (*engine)->Pause();
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 8; ++i) {
    SessionSpec spec = Spec();
    spec.request_id = std::to_string(i);
    spec.prompt = {1};
    GenerationRequest step = Step(Open(**engine, spec).id, 1, {}, 60);
    step.request_id = std::to_string(i);
    sinks.push_back(std::make_shared<Collector>(1));
    ASSERT_TRUE((*engine)->Submit(step, sinks.back()).ok());
  }
  (*engine)->Resume();
  for (const auto& sink : sinks) sink->Wait();
  EXPECT_EQ(most, 8);
}

// Everything at random in a pool that is too small for all: each log still replays, and in the end
// no page is left behind.
TEST_F(SessionTest, RandomOperationsLoseNothingAndLeaveNothingBehind) {
  auto engine = Make({.kv_pool_bytes = 1 << 20, .max_sessions = 12});
  RandomStream random(7);
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int op = 0; op < 400; ++op) {
    const std::vector<SessionInfo> open = engine->sessions()->List("");
    const int64_t what = random.Below(10);
    if (open.empty() || what == 0) {
      SessionSpec spec = Spec(TurnBased(context::Method::kEvict));
      spec.request_id = "create" + std::to_string(op);
      (void)engine->sessions()->Create(spec);
      continue;
    }
    const SessionInfo& at = open[static_cast<size_t>(random.Below(std::ssize(open)))];
    if (what == 1) {
      engine->sessions()->Delete(at.id);
    } else if (what == 2) {
      (void)engine->sessions()->Fork("fork" + std::to_string(op), at.id, {random.Next64()});
    } else if (what == 3) {
      engine->Cancel("step" + std::to_string(op - random.Below(5)));
    } else if (!at.busy && at.tokens < 400) {
      GenerationRequest step = Step(at.id, at.tokens, Words(6, op), 1 + random.Below(30));
      step.request_id = "step" + std::to_string(op);
      auto sink = std::make_shared<Collector>(1);
      if (engine->Submit(step, sink).ok()) sinks.push_back(sink);
    }
  }
  int finished = 0;
  for (const auto& sink : sinks) {
    sink->Wait();
    for (const auto& [sample, f] : sink->finished) {
      ++finished;
      if (finished % 8 == 0) ExpectReplays(*engine, f.rollout);
    }
  }
  EXPECT_GT(finished, 50);
  for (const SessionInfo& info : engine->sessions()->List("")) engine->sessions()->Delete(info.id);
  ExpectPoolWhole(*engine);
}

// Admission lets in what fits the pool alone; so it has its turn, too.
TEST_F(SessionTest, AStepThatTakesTheWholePoolRuns) {
  constexpr int64_t kBytesOfPage = 16 * 3 * 2 * (2 * 16 * 4 + 4);  // bytes
  const auto engine = Make({.kv_pool_bytes = 2 * kBytesOfPage});
  const SessionInfo session = Open(*engine, Spec());
  EXPECT_EQ(Go(*engine, session.id, Words(4, 1), 4).tokens.size(), 24u);
  EXPECT_EQ(Go(*engine, session.id, Words(4, 2), 4).tokens.size(), 32u);
  engine->sessions()->Delete(session.id);
  ExpectPoolWhole(*engine);
}

}  // namespace
}  // namespace palimpsest::inference
