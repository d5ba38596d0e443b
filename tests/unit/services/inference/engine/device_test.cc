#include "services/inference/engine/cuda_event_limits.h"
#include "tests/unit/services/inference/engine/device_testing.h"

namespace palimpsest::inference {
namespace {

using context::Chooser;
using context::Method;

std::vector<GenerationRequest> Mixed(
    const std::function<GenerationRequest(std::string, int)>& ask,
    const std::function<context::ContextPolicy(Method, Chooser)>& policy) {
  std::vector<GenerationRequest> all;
  const auto add = [&](const char* id, int n, Method method, Chooser chooser) {
    all.push_back(ask(id, n));
    all.back().context = policy(method, chooser);
  };
  add("matched", 2, Method::kAttentionMatching, Chooser::kRms);
  add("evicted", 1, Method::kEvict, Chooser::kAttention);
  add("recent", 1, Method::kEvict, Chooser::kRecent);
  add("at random", 1, Method::kEvict, Chooser::kRandom);
  add("markovian", 1, Method::kMarkovian, Chooser::kRms);
  all.push_back(ask("greedy", 1));
  all.back().sampling.temperature = 0;
  return all;
}

// Every method in one batch, samples that share their prompt's pages, drawn and greedy.
TEST_F(DeviceTest, GivesTheTokensEventsAndDigestsOfTheCpu) {
  const auto asked = Mixed([](std::string id, int n) { return Ask(id, n, 38); }, Budget);
  const auto cpu = All(*Start(On("cpu")), asked);
  auto engine = Start(On("cuda"));
  const auto gpu = All(*engine, asked);
  ASSERT_EQ(cpu.size(), gpu.size());
  size_t events = 0;
  for (size_t i = 0; i < cpu.size(); ++i) {
    ExpectAlike(cpu[i], gpu[i]);
    EXPECT_LE(FromReplay(*engine, gpu[i], gpu[i].events).first, kBound) << gpu[i].id;
    events += gpu[i].events.size();
  }
  EXPECT_GE(events, 12u);
  ExpectPoolWhole(*engine);
}

// What the bound tells apart: a replay that keeps the same positions without their new biases and
// values, and one that knows of no events.
TEST_F(DeviceTest, AReplayWithoutBiasAndFittedValuesIsFarOff) {
  GenerationRequest r = Ask("control", 1, 60);
  r.context = Budget(Method::kAttentionMatching, Chooser::kRms);
  auto engine = Start(On("cuda"));
  const rl::Rollout rollout = All(*engine, {r}).front();
  ASSERT_GE(rollout.events.size(), 3u);
  EXPECT_LE(FromReplay(*engine, rollout, rollout.events).first, kBound);
  std::vector<context::Event> evictions = rollout.events;
  for (context::Event& e : evictions) {
    e.method = Method::kEvict;
    e.parameters.chooser = Chooser::kAttention;
    e.digest.reset();
  }
  EXPECT_GT(FromReplay(*engine, rollout, evictions).first, 20 * kBound);
  EXPECT_GT(FromReplay(*engine, rollout, {}).first, 20 * kBound);
}

// Chunks end anywhere, between events that fall inside the prompt, beside a row that decodes.
TEST_F(DeviceTest, ReadsLongPromptsInChunksBetweenEvents) {
  std::vector<GenerationRequest> asked = {Ask("short", 1, 14, 5), Ask("a long one", 1, 6, 90)};
  asked[1].context = Budget(Method::kAttentionMatching, Chooser::kRms);
  asked[1].context.protect = 4;
  asked[1].sampling.prompt_logprobs = 2;
  Limits limits = SmallPool();
  limits.prefill_tokens = 23;
  const auto cpu = All(*Start(On("cpu", limits)), asked),
             gpu = All(*Start(On("cuda", limits)), asked);
  for (size_t i = 0; i < cpu.size(); ++i) ExpectAlike(cpu[i], gpu[i]);
  EXPECT_LT(gpu[1].events.at(0).at, 90);
}

TEST_F(DeviceTest, WeighsPromptsLikeTheCpu) {
  GenerationRequest r = Ask("weighed", 1, 2, 70);
  r.sampling.prompt_logprobs = 2;
  const auto cpu = Generate(*Start(On("cpu")), r), gpu = Generate(*Start(On("cuda")), r);
  const Finished &a = cpu->finished.at(0), &b = gpu->finished.at(0);
  ASSERT_EQ(a.prompt_logprobs.size(), 69u);
  ASSERT_EQ(b.prompt_logprobs.size(), 69u);
  for (size_t i = 0; i < a.prompt_logprobs.size(); ++i)
    EXPECT_NEAR(a.prompt_logprobs[i], b.prompt_logprobs[i], kBound);
}

TEST_F(DeviceTest, WhoGivesItsCacheBackComesBackByItsLog) {
  const CacheCost cost = CostOf(Start(On("cpu"))->model());
  int preempted = 0;
  EngineOptions options = On("cuda");
  options.limits.kv_pool_bytes = 7 * cost.page_bytes + 4 * 10 * cost.query_bytes;
  options.observer.preempted = [&] { ++preempted; };
  std::vector<GenerationRequest> asked;
  for (const char* id : {"a", "bb", "ccc"}) {
    asked.push_back(Ask(id, 1, 50));
    asked.back().context = Budget(Method::kAttentionMatching, Chooser::kRms);
    std::get<context::KvBudget>(asked.back().context.trigger) = {
        .budget = 52, .window = 16, .keep_ratio = 0.4};
  }
  auto engine = Start(options);
  for (const rl::Rollout& r : All(*engine, asked)) {
    EXPECT_GE(r.events.size(), 1u);
    EXPECT_LE(FromReplay(*engine, r, r.events).first, kBound) << r.id;
  }
  EXPECT_GE(preempted, 1);
  ExpectPoolWhole(*engine);
}

TEST_F(DeviceTest, SessionsForkAndCompactTheirTurns) {
  const auto play = [](Engine& engine) {
    SessionSpec spec = Spec(TurnBased(Method::kAttentionMatching));
    for (int32_t& id : spec.prompt) id %= kVocab;
    const auto words = [](int n, int seed) {
      std::vector<int32_t> ids = Words(n, seed);
      for (int32_t& id : ids) id %= kVocab;
      return ids;
    };
    const std::string id = Open(engine, spec).id;
    for (int turn = 0; turn < 2; ++turn) Go(engine, id, words(9, turn), 6);
    const auto forks = engine.sessions()->Fork("fork", id, {11, 12});
    EXPECT_TRUE(forks.ok()) << forks.status();
    return std::vector{Go(engine, id, words(4, 9), 6), Go(engine, forks->at(0).id, words(4, 9), 6),
                       Go(engine, forks->at(1).id, words(4, 9), 6)};
  };
  auto on_cpu = Start(On("cpu")), on_gpu = Start(On("cuda"));
  const auto cpu = play(*on_cpu), gpu = play(*on_gpu);
  for (size_t i = 0; i < cpu.size(); ++i) ExpectAlike(cpu[i], gpu[i]);
  EXPECT_EQ(gpu[0].tokens, gpu[1].tokens);
  EXPECT_NE(gpu[0].tokens, gpu[2].tokens);
  EXPECT_GE(gpu[2].events.size(), 1u);
}

// Under kRecompute all of a running cache is built again by the new weights, from its log.
TEST_F(DeviceTest, NewWeightsGoLiveBetweenTwoSteps) {
  auto engine = Start(On("cuda"));
  GenerationRequest r = Ask("flip", 1, 60);
  r.context = Budget(Method::kAttentionMatching, Chooser::kRms);
  auto sink = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(r, sink).ok());
  sink->WaitForTokens(12);
  const auto update = engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kRecompute);
  ASSERT_TRUE(update.ok()) << update.status();
  sink->Wait();
  const rl::Rollout& rollout = sink->finished.at(0).rollout;
  ASSERT_EQ(rollout.spans.size(), 2u);
  const auto score = engine->Score({.tokens = rollout.tokens, .events = rollout.events});
  ASSERT_TRUE(score.ok()) << score.status();
  double before = 0;
  for (int32_t p = rollout.prompt_tokens; p < std::ssize(rollout.tokens); ++p) {
    const double off = std::abs(score->logprobs[p - 1] - rollout.logprobs[p]);
    if (p >= rollout.spans[1].begin) {
      EXPECT_LE(off, kBound) << "position " << p;
    } else {
      before = std::max(before, off);
    }
  }
  EXPECT_GT(before, 100 * kBound);  // those were the old weights'
}

// Rounding of bf16 moves draws, so each engine is held against a replay of its own log.
TEST_F(DeviceTest, InBf16ItStaysWithinItsRoundingOfReplay) {
  const auto asked = Mixed([](std::string id, int n) { return Ask(id, n, 26); }, Budget);
  std::pair<double, double> most[2] = {};
  for (const bool on_gpu : {false, true}) {
    EngineOptions options = On(on_gpu ? "cuda" : "cpu");
    options.dtype = "bfloat16";
    auto engine = Start(options);
    for (const rl::Rollout& r : All(*engine, asked)) {
      const auto [worst, mean] = FromReplay(*engine, r, r.events);
      most[on_gpu] = {std::max(most[on_gpu].first, worst), std::max(most[on_gpu].second, mean)};
    }
  }
  std::printf("bf16 from replay, largest and mean: cpu %.1e %.1e, cuda %.1e %.1e\n", most[0].first,
              most[0].second, most[1].first, most[1].second);
  EXPECT_LE(most[1].first, 0.05);
  EXPECT_LE(most[1].second, 0.01);
}

// Qwen2 has biases where Qwen3 norms heads; Llama stretches low frequencies and ties no head.
TEST_F(DeviceTest, KnowsTheOtherArchitectures) {
  model::ModelConfig qwen2 = Config(), llama = Config();
  qwen2.architecture = model::Architecture::kQwen2;
  qwen2.attention_bias = true;
  qwen2.tied_embeddings = true;
  llama.architecture = model::Architecture::kLlama;
  llama.rope_scaling = model::Llama3Scaling{
      .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 64};
  for (const model::ModelConfig& config : {qwen2, llama}) {
    const std::string folder = Root() + "/other";
    SaveModel(config, 3, folder);
    EngineOptions cpu = On("cpu"), gpu = On("cuda");
    cpu.model_folder = gpu.model_folder = folder;
    ExpectAlike(All(*Start(cpu), {Ask("o", 1, 8)})[0], All(*Start(gpu), {Ask("o", 1, 8)})[0]);
  }
}

TEST_F(DeviceTest, WhatTheKernelsDoNotKnowIsRefusedByName) {
  const auto expect = [](const absl::Status& status, const char* said) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find(said), std::string::npos) << status;
  };
  model::ModelConfig narrow = Config();
  narrow.head_dim = 32;
  SaveModel(narrow, 1, Root() + "/narrow");
  EngineOptions options = On("cuda");
  options.model_folder = Root() + "/narrow";
  expect(MakeEngine(options).status(), "head_dim=32");
  options = On("cuda");
  options.batch_invariant = true;
  expect(MakeEngine(options).status(), "batch_invariant=true");
  expect(MakeEngine(On("tpu")).status(), "inference.device=tpu");
#ifndef PALIMPSEST_ON_GPU
  options = On("cuda");
  options.emulated = false;
  expect(MakeEngine(options).status(), "this build has no CUDA; cmake --preset cuda");
#endif

  auto engine = Start(On("cuda"));
  const auto refused = [&](const std::function<void(context::ContextPolicy&)>& change,
                           const char* said) {
    GenerationRequest r = Ask("refused", 1, 40);
    r.context = Budget(Method::kAttentionMatching, Chooser::kRms);
    change(r.context);
    expect(engine->Submit(r, std::make_shared<Collector>(1)), said);
    SessionSpec spec = Spec(r.context);
    spec.prompt = r.prompt;
    expect(engine->sessions()->Create(spec).status(), said);
  };
  refused([](auto& c) { c.parameters.chooser = Chooser::kOmp; }, "parameters.chooser=omp");
  refused([](auto& c) { c.parameters.reference_kind = context::ReferenceKind::kKeys; },
          "parameters.reference_kind=keys");
  refused([](auto& c) { c.parameters.holdout_every = 4; }, "parameters.holdout_every=4");
  refused(
      [](auto& c) {
        c.trigger = context::KvBudget{.budget = 20100, .window = 20000, .keep_ratio = 0.01};
      },
      "context.kv_budget.window=20000");
  refused(
      [](auto& c) {
        c.trigger = context::Segments{.every = 64, .window = 4096, .keep_ratio = 0.26};
      },
      "context.segments.keep_ratio=0.26 keeps 1064 of window=4096");
}

// Of manual events nobody knows the window before it is asked for.
TEST(CudaEventLimitsTest, WhatOnlyTheWindowTellsIsNamedThen) {
  attention::ReplayEvent asked;
  asked.event.at = 9000;
  asked.event.window = {100, 8100};
  EXPECT_TRUE(CheckDeviceWindow(asked, true, true, 8000, 1024).ok());
  for (const absl::Status& refused : {CheckDeviceWindow(asked, true, true, 8000, 1025),
                                      CheckDeviceWindow(asked, false, true, 16385, 10)}) {
    EXPECT_TRUE(absl::IsInvalidArgument(refused));
    EXPECT_NE(refused.message().find("window=[100, 8100) of the event at=9000"), std::string::npos)
        << refused;
  }
}

// By the pass that decodes and by replay, of more tokens than a chunk has.
TEST_F(DeviceTest, ScoresAsItDecodes) {
  Limits limits = SmallPool();
  limits.prefill_tokens = 23;
  auto engine = Start(On("cuda", limits));
  ScoreRequest r{.tokens = Ask("scored", 1, 1, 70).prompt, .top = 2};
  const auto replayed = engine->Score(r);
  r.as_decoded = true;
  const auto decoded = engine->Score(r);
  ASSERT_TRUE(replayed.ok() && decoded.ok()) << replayed.status() << decoded.status();
  ASSERT_EQ(decoded->logprobs.size(), 69u);
  ASSERT_EQ(decoded->top.size(), 69u);
  for (size_t i = 0; i < 69; ++i)
    EXPECT_NEAR(replayed->logprobs[i], decoded->logprobs[i], kBound) << i;
  ExpectPoolWhole(*engine);
}

}  // namespace
}  // namespace palimpsest::inference
