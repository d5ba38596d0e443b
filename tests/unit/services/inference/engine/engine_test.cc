#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {
namespace {

// The number of the design's section 11: sampled against replayed log-probability.
TEST_F(EngineTest, SampledEqualsReplayedLogProbabilityUnderManyEvents) {
  auto engine = Make();
  const std::pair<context::Method, context::Chooser> methods[] = {
      {context::Method::kAttentionMatching, context::Chooser::kRms},
      {context::Method::kAttentionMatching, context::Chooser::kOmp},
      {context::Method::kAttentionMatching, context::Chooser::kMax},
      {context::Method::kAttentionMatching, context::Chooser::kAccumulated},
      {context::Method::kAttentionMatching, context::Chooser::kCarriedMax},
      {context::Method::kAttentionMatching, context::Chooser::kDiverse},
      {context::Method::kEvict, context::Chooser::kAttention},
      {context::Method::kEvict, context::Chooser::kRecent},
      {context::Method::kEvict, context::Chooser::kRandom},
      {context::Method::kEvict, context::Chooser::kAccumulated},
      {context::Method::kEvict, context::Chooser::kCarriedMax},
      {context::Method::kEvict, context::Chooser::kDiverse},
      {context::Method::kMarkovian, context::Chooser::kRms}};
  for (const auto& [method, chooser] : methods) {
    GenerationRequest r = Request(4, 150);
    r.context = Budget(method, chooser);
    const auto sink = Generate(*engine, r);
    std::map<size_t, double> by_events;  // events before the token -> largest difference
    double worst = 0, sum = 0;
    int count = 0;
    for (const auto& [sample, f] : sink->finished) {
      EXPECT_GE(f.rollout.events.size(), 3u);
      EXPECT_EQ(sink->events_[sample], static_cast<int>(f.rollout.events.size()));
      const auto score = engine->Score({.tokens = f.rollout.tokens, .events = f.rollout.events});
      ASSERT_TRUE(score.ok()) << score.status();
      for (size_t p = 16; p < f.rollout.tokens.size(); ++p) {
        const double d = std::abs(score->logprobs[p - 1] - f.rollout.logprobs[p]);
        worst = std::max(worst, d);
        sum += d;
        ++count;
        size_t before = 0;
        while (before < f.rollout.events.size() &&
               f.rollout.events[before].at < static_cast<int32_t>(p))
          ++before;
        by_events[before] = std::max(by_events[before], d);
      }
    }
    std::printf("%s/%s: max abs %.2e, mean %.2e; max by events:", std::string(Name(method)).c_str(),
                std::string(Name(chooser)).c_str(), worst, sum / count);
    for (const auto& [events, most] : by_events) std::printf(" %zu:%.0e", events, most);
    std::printf("\n");
    // No growth: later halves are no further off than earlier ones, up to what chance does.
    double early = 0, late = 0;
    for (const auto& [events, most] : by_events) {
      double& half = events <= by_events.rbegin()->first / 2 ? early : late;
      half = std::max(half, most);
    }
    EXPECT_LE(late, 4 * early + 1e-6);
    EXPECT_LE(worst, 2e-4);
    EXPECT_LE(sum / count, 1e-5);
  }
}

TEST_F(EngineTest, AScoreThatIgnoresTheEventsIsFarOff) {
  auto engine = Make();
  GenerationRequest r = Request(1, 150);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  const auto sink = Generate(*engine, r);
  const auto score = engine->Score({.tokens = sink->finished[0].rollout.tokens});
  double worst = 0;
  for (size_t p = 100; p < score->logprobs.size(); ++p) {
    worst = std::max<double>(
        worst, std::abs(score->logprobs[p - 1] - sink->finished[0].rollout.logprobs[p]));
  }
  EXPECT_GT(worst, 1e-2);
}

TEST_F(EngineTest, BudgetHoldsTheLiveCountAndTheLogKeepsItsCounts) {
  auto engine = Make();
  GenerationRequest r = Request(1, 150);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  const auto sink = Generate(*engine, r);
  const rl::Rollout& rollout = sink->finished[0].rollout;
  context::ContextState state({.layers = 3, .kv_heads = 2});
  for (const context::Event& e : rollout.events) {
    state.Append(e.at - state.processed());
    EXPECT_EQ(state.live_count(), 40);
    ASSERT_TRUE(state.Apply(e).ok());
    EXPECT_EQ(state.live_count(), 40 - 20 + 8);
  }
}

TEST_F(EngineTest, TheSameRequestAmongOthersGivesTheSameTokens) {
  auto engine = Make();
  GenerationRequest r = Request(1, 80);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  const auto alone = Generate(*engine, r);
  std::vector<std::shared_ptr<Collector>> others;
  for (int i = 0; i < 6; ++i) {
    GenerationRequest other = Request(2, 60 + 7 * i);
    other.request_id = "other" + std::to_string(i);
    other.sampling.seed = 100 + i;
    other.prompt.resize(10 + 2 * i, 77);
    if (i % 2) other.context = Budget(context::Method::kEvict, context::Chooser::kAttention);
    others.push_back(std::make_shared<Collector>(2));
    ASSERT_TRUE(engine->Submit(other, others.back()).ok());
  }
  const auto among = Generate(*engine, r);
  for (auto& o : others) o->Wait();
  EXPECT_EQ(alone->finished[0].rollout.tokens, among->finished[0].rollout.tokens);
  EXPECT_EQ(alone->finished[0].rollout.events.size(), among->finished[0].rollout.events.size());
}

// Sums of a batch have another order, so a greedy choice may fall otherwise where two candidates
// are as good as equal, and only there.
TEST_F(EngineTest, GreedyTokensAreTheSameInAnyCompanyUntilTwoCandidatesAreAsGoodAsEqual) {
  auto engine = Make();
  const auto ask = [](int i) {
    GenerationRequest r = Request(1, 120);
    r.request_id = "r" + std::to_string(i);
    for (int32_t& id : r.prompt) id = (id + 13 * i) % 250;
    r.sampling.temperature = 0;
    r.sampling.top_logprobs = 2;
    return r;
  };
  std::vector<std::shared_ptr<Collector>> alone, among;
  for (int i = 0; i < 12; ++i) alone.push_back(Generate(*engine, ask(i)));
  engine->Pause();
  for (int i = 0; i < 12; ++i) {
    among.push_back(std::make_shared<Collector>(1));
    ASSERT_TRUE(engine->Submit(ask(i), among.back()).ok());
  }
  engine->Resume();
  int compared = 0;
  for (int i = 0; i < 12; ++i) {
    among[i]->Wait();
    const auto &a = alone[i]->streamed_[0], &b = among[i]->streamed_[0];
    for (size_t t = 0; t < a.size(); ++t, ++compared) {
      const std::vector<float>& best = alone[i]->top[t].logprobs;
      if (a[t] != b[t]) {
        EXPECT_LT(best[0] - best[1], 1e-4) << "request " << i << ", token " << t;
        break;
      }
      EXPECT_NEAR(best[0], among[i]->top[t].logprobs[0], 5e-5);
    }
  }
  EXPECT_GT(compared, 600) << "of 1440";
}

TEST_F(EngineTest, EventsThatListenToKeysAreReplayedAloneAndAmongThoseThatListenToQueries) {
  auto engine = Make();
  GenerationRequest by_query = Request(3, 60), by_key = Request(3, 60);
  by_query.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  by_key.context = by_query.context;
  by_key.context.parameters.reference_kind = context::ReferenceKind::kKeys;
  by_key.request_id = "keys";
  const auto alone = Generate(*engine, by_key);
  const auto other = std::make_shared<Collector>(3), among = std::make_shared<Collector>(3);
  ASSERT_TRUE(engine->Submit(by_query, other).ok());
  ASSERT_TRUE(engine->Submit(by_key, among).ok());
  other->Wait();
  among->Wait();
  for (const auto& [sample, f] : among->finished) {
    const rl::Rollout& rollout = f.rollout;
    EXPECT_EQ(rollout.tokens, alone->finished[sample].rollout.tokens);
    ASSERT_GE(rollout.events.size(), 2u);
    const auto score = engine->Score({.tokens = rollout.tokens, .events = rollout.events});
    ASSERT_TRUE(score.ok()) << score.status();
    for (size_t p = 16; p < rollout.tokens.size(); ++p)
      EXPECT_NEAR(score->logprobs[p - 1], rollout.logprobs[p], 2e-4);
  }
}

TEST_F(EngineTest, WeightsThatGiveNoFiniteLogitsFailAndAreNoRollout) {
  const std::string folder = Root() + "/spoiled";
  std::filesystem::create_directories(folder);
  const auto decoder = model::Decoder::Random(Config(), 1, model::DType::kFloat32);
  ASSERT_TRUE(decoder->Save(folder).ok());
  std::fstream file(folder + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end).write("\xff\xff\xff\xff", 4);  // one NaN, in the last tensor
  file.close();
  // The engine needs no tokenizer for ids alone, so a broken one does not matter.
  std::ofstream(folder + "/tokenizer.json") << "{";
  EXPECT_FALSE(MakeEngine({.model_folder = folder}).ok());
  const auto engine = MakeEngine({.model_folder = folder, .with_tokenizer = false});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto sink = Generate(**engine, Request(2, 5));
  EXPECT_TRUE(sink->finished.empty());
  ASSERT_EQ(sink->failed.size(), 2u);
  for (const auto& [sample, failure] : sink->failed) {
    EXPECT_EQ(failure.outcome, rl::Outcome::kInfraFailed);
    EXPECT_FALSE(failure.retryable);
  }
  EXPECT_FALSE((*engine)->Score({.tokens = {1, 2, 3}}).ok());
  ExpectPoolWhole(**engine);
}

TEST_F(EngineTest, ChunkedPrefillMovesNoEvent) {
  GenerationRequest r = Request(1, 40);
  for (int i = 0; i < 100; ++i) r.prompt.push_back((i * 13) % 250);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  r.context.protect = 4;
  const auto whole = Generate(*Make({.prefill_tokens = 512}), r);
  const auto cut = Generate(*Make({.prefill_tokens = 7}), r);
  ASSERT_EQ(whole->finished[0].rollout.events.size(), cut->finished[0].rollout.events.size());
  EXPECT_LT(whole->finished[0].rollout.events[0].at, 116);
  for (size_t i = 0; i < whole->finished[0].rollout.events.size(); ++i) {
    EXPECT_EQ(whole->finished[0].rollout.events[i].at, cut->finished[0].rollout.events[i].at);
    EXPECT_EQ(whole->finished[0].rollout.events[i].window,
              cut->finished[0].rollout.events[i].window);
  }
  EXPECT_EQ(whole->finished[0].rollout.tokens, cut->finished[0].rollout.tokens);
}

TEST_F(EngineTest, SamplesDifferAndAreKeyedBySeedAndNumber) {
  auto engine = Make();
  const auto group = Generate(*engine, Request(4, 30));
  GenerationRequest third = Request(1, 30);
  third.first_sample = 2;
  const auto refill = Generate(*engine, third);
  EXPECT_NE(group->finished[0].rollout.tokens, group->finished[1].rollout.tokens);
  EXPECT_EQ(group->finished[2].rollout.tokens, refill->finished[2].rollout.tokens);
}

TEST_F(EngineTest, AStreamThatSawAFlipNamesTwoVersions) {
  auto engine = Make();
  auto sink = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(Request(1, 500), sink).ok());
  sink->WaitForTokens(20);
  const auto update = engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep);
  ASSERT_TRUE(update.ok()) << update.status();
  sink->Wait();
  const auto& spans = sink->finished[0].rollout.spans;
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].version, PolicyVersion(1));
  EXPECT_EQ(spans[1].version, PolicyVersion(2));
  EXPECT_EQ(spans[0].begin, 16);
  EXPECT_EQ(spans[0].end, spans[1].begin);
  EXPECT_EQ(spans[1].end, 516);
}

TEST_F(EngineTest, WeightsOfAnotherModelAreRefusedAndTheOldStay) {
  auto engine = Make();
  model::ModelConfig other = Config();
  other.layers = 2;
  const std::string folder = Root() + "/other";
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(model::Decoder::Random(other, 1, model::DType::kFloat32)->Save(folder).ok());
  EXPECT_FALSE(engine->UpdateWeights(folder, PolicyVersion(3), WeightsMode::kKeep).ok());
  EXPECT_EQ(engine->version(), PolicyVersion(1));
}

TEST_F(EngineTest, CancelEndsWithThePartialRollout) {
  auto engine = Make();
  auto sink = std::make_shared<Collector>(2);
  ASSERT_TRUE(engine->Submit(Request(2, 580), sink).ok());
  sink->WaitForTokens(5);
  engine->Cancel("r");
  sink->Wait();
  ASSERT_EQ(sink->failed.size(), 2u);
  EXPECT_TRUE(absl::IsCancelled(sink->failed.at(0).status));
  EXPECT_GE(sink->failed.at(0).partial->tokens.size(), 21u);
  ExpectPoolWhole(*engine);
}

TEST_F(EngineTest, APromptThatRunsOutOfRoomEndsWithLength) {
  auto engine = Make();
  GenerationRequest r = Request(2, 40);
  for (int i = 0; i < 100; ++i) r.prompt.push_back((i * 13) % 250);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  r.context.protect = 4;
  r.context.stack = true;  // compact blocks pile up until no window fits
  const auto sink = Generate(*engine, r);
  ASSERT_EQ(sink->finished.size(), 2u);
  EXPECT_EQ(sink->finished[1].rollout.finish_reason, rl::FinishReason::kLength);
  EXPECT_EQ(sink->finished[1].rollout.tokens.size(), r.prompt.size());
  EXPECT_GE(sink->finished[1].rollout.events.size(), 1u);
  ExpectPoolWhole(*engine);
}

TEST_F(EngineTest, AStepThatThrowsEndsWhatWasRunningAndNothingElse) {
  int calls = 0;
  EngineOptions options{.model_folder = Folder(1), .version = PolicyVersion(1)};
  options.observer.tokens = [&](int, int sampled) {
    if (sampled > 0 && ++calls == 10) throw std::runtime_error("as if memory had run out");
  };
  auto engine = MakeEngine(std::move(options));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const auto broken = Generate(**engine, Request(3, 40));
  ASSERT_EQ(broken->failed.size(), 3u);
  EXPECT_TRUE(absl::IsInternal(broken->failed.at(0).status)) << broken->failed.at(0).status;
  EXPECT_TRUE(broken->failed.at(0).retryable);
  EXPECT_EQ(broken->failed.at(0).outcome, rl::Outcome::kInfraFailed);
  const auto after = Generate(**engine, Request(3, 40));
  EXPECT_EQ(after->finished.size(), 3u);
  ExpectPoolWhole(**engine);
}

TEST_F(EngineTest, AStopIdStaysInTheIds) {
  auto engine = Make();
  const auto free_run = Generate(*engine, Request(1, 60));
  const std::vector<int32_t>& tokens = free_run->finished[0].rollout.tokens;
  GenerationRequest by_id = Request(1, 60);
  by_id.sampling.stop_ids = {tokens[16 + 10]};
  const auto stopped = Generate(*engine, by_id);
  EXPECT_EQ(stopped->finished[0].rollout.finish_reason, rl::FinishReason::kStop);
  EXPECT_EQ(stopped->finished[0].rollout.tokens.back(), tokens[26]);
  EXPECT_NE(stopped->finished[0].rollout.logprobs.back(), 0.0f);
}

TEST_F(EngineTest, TopLogProbabilitiesComeWithEveryTokenAndHoldTheGreedyOne) {
  auto engine = Make();
  GenerationRequest r = Request(1, 12);
  r.sampling.temperature = 0;
  r.sampling.top_logprobs = 3;
  const auto sink = Generate(*engine, r);
  ASSERT_EQ(sink->top.size(), 12u);
  const rl::Rollout& rollout = sink->finished.at(0).rollout;
  for (size_t i = 0; i < sink->top.size(); ++i) {
    ASSERT_EQ(sink->top[i].ids.size(), 3u);
    EXPECT_EQ(sink->top[i].ids[0], rollout.tokens[16 + i]);
    EXPECT_EQ(sink->top[i].logprobs[0], rollout.logprobs[16 + i]);
    EXPECT_GE(sink->top[i].logprobs[0], sink->top[i].logprobs[1]);
  }
}

TEST_F(EngineTest, BudgetMessagesAreInjectedAndMasked) {
  auto engine = Make();
  GenerationRequest r = Request(1, 60);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  r.budget_messages = rl::BudgetMessages{.text = "[{used}/{budget}]", .at_events = true};
  const auto sink = Generate(*engine, r);
  const rl::Rollout& rollout = sink->finished[0].rollout;
  int injected = 0, sampled = 0;
  for (size_t i = 16; i < rollout.tokens.size(); ++i) {
    const bool is_injected = rollout.origins[i] == rl::Origin::kInjected;
    injected += is_injected;
    sampled += !is_injected;
    EXPECT_EQ(is_injected, rollout.logprobs[i] == 0.0f);
  }
  EXPECT_EQ(sampled, 60);
  EXPECT_GE(injected, 7);
  // "A message at an event starts at p + 1": the pending sampled token keeps position p.
  const int32_t p = rollout.events[0].at;
  EXPECT_EQ(rollout.origins[p], rl::Origin::kSampled);
  EXPECT_EQ(rollout.tokens[p + 1], '[');
  const auto score = engine->Score({.tokens = rollout.tokens, .events = rollout.events});
  ASSERT_TRUE(score.ok()) << score.status();
  for (size_t i = 16; i < rollout.tokens.size(); ++i) {
    if (rollout.origins[i] != rl::Origin::kSampled) continue;
    EXPECT_NEAR(score->logprobs[i - 1], rollout.logprobs[i], 2e-4);
  }
}

}  // namespace
}  // namespace palimpsest::inference
