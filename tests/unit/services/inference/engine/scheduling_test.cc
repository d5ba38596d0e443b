#include <ctime>
#include <thread>

#include "absl/time/clock.h"
#include "tests/unit/services/inference/engine/engine_testing.h"

namespace palimpsest::inference {
namespace {

// The same bits, not only the same tokens: fp32 and bf16, alone and among 31 others, with the
// prompt in one piece and in pieces of 7, under events of every method.
TEST_F(EngineTest, BatchInvariantGivesTheSameBitsInAnyCompany) {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    const auto make = [&](int prefill_tokens) {
      auto engine = MakeEngine({.model_folder = Folder(1),
                                .version = PolicyVersion(1),
                                .dtype = dtype,
                                .batch_invariant = true,
                                .limits = {.prefill_tokens = prefill_tokens, .check_pages = true}});
      EXPECT_TRUE(engine.ok()) << engine.status();
      return *std::move(engine);
    };
    const std::pair<context::Method, context::Chooser> ways[] = {
        {context::Method::kAttentionMatching, context::Chooser::kRms},
        {context::Method::kAttentionMatching, context::Chooser::kCarriedMax},
        {context::Method::kEvict, context::Chooser::kAttention},
        {context::Method::kEvict, context::Chooser::kDiverse}};
    for (const auto& [method, chooser] : ways) {
      GenerationRequest r = Request(1, 60);
      r.prompt.resize(39, 77);
      r.context = Budget(method, chooser);
      r.context.protect = 8;
      const auto alone = Generate(*make(512), r);
      auto engine = make(7);
      std::vector<std::shared_ptr<Collector>> others;
      for (int i = 0; i < 31; ++i) {
        GenerationRequest other = Request(1, 20 + 3 * i);
        other.request_id = "other" + std::to_string(i);
        other.sampling.seed = 100 + i;
        other.prompt.resize(5 + i, 50 + i);
        other.context = i % 2 == 0 ? Budget(method, chooser)
                                   : Budget(context::Method::kMarkovian, context::Chooser::kRms);
        other.context.protect = 3;
        others.push_back(std::make_shared<Collector>(1));
        const absl::Status status = engine->Submit(other, others.back());
        ASSERT_TRUE(status.ok()) << status;
      }
      const auto among = Generate(*engine, r);
      const rl::Rollout &a = alone->finished.at(0).rollout, &b = among->finished.at(0).rollout;
      EXPECT_EQ(a.tokens, b.tokens);
      EXPECT_EQ(a.logprobs, b.logprobs);
      ASSERT_GE(a.events.size(), 3u);
      for (size_t e = 0; e < a.events.size(); ++e)
        EXPECT_EQ(a.events[e].digest, b.events[e].digest);
      for (const auto& other : others) other->Wait();
    }
  }
}

// Two requests of six samples in a pool that holds about three: whoever is preempted replays its
// log and ends with the bits that it has in a pool for all.
TEST_F(EngineTest, APreemptedSequenceComesBackByItsLogAndGoesOnBitForBit) {
  const auto run = [&](const std::string& dtype, int64_t bytes, context::ContextPolicy policy,
                       int* preemptions) {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .dtype = dtype,
                              .batch_invariant = true,
                              .limits = {.kv_pool_bytes = bytes, .check_pages = true},
                              .observer = {.preempted = [preemptions] { ++*preemptions; }}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    std::vector<std::shared_ptr<Collector>> sinks;
    (*engine)->Pause();  // so that both wait when the first is admitted
    for (int i = 0; i < 2; ++i) {
      GenerationRequest r = Request(6, 80);
      r.request_id = "r" + std::to_string(i);
      r.sampling.seed = 5 + i;
      r.context = policy;
      sinks.push_back(std::make_shared<Collector>(6));
      EXPECT_TRUE((*engine)->Submit(r, sinks.back()).ok());
    }
    (*engine)->Resume();
    std::vector<rl::Rollout> rollouts;
    for (const auto& sink : sinks) {
      sink->Wait();
      EXPECT_EQ(sink->finished.size(), 6u);
      for (auto& [sample, f] : sink->finished) rollouts.push_back(f.rollout);
    }
    ExpectPoolWhole(**engine);
    return rollouts;
  };
  const context::ContextPolicy policies[] = {
      {},
      Budget(context::Method::kAttentionMatching, context::Chooser::kRms),
      Budget(context::Method::kEvict, context::Chooser::kAttention)};
  std::vector<std::pair<context::ContextPolicy, std::string>> cases;
  for (const std::string dtype : {"float32", "bfloat16"}) {
    for (const context::ContextPolicy& policy : policies) cases.emplace_back(policy, dtype);
  }
  for (const auto& [policy, dtype] : cases) {
    int none = 0, many = 0, epochs = 0;
    const auto roomy = run(dtype, 64 << 20, policy, &none);
    // A slot is 3 layers x 2 heads x (2 x 16 numbers and a bias).
    const int64_t width = dtype == "float32" ? 4 : 2, slot = 3 * 2 * (2 * 16 * width + 4);
    const int64_t recorded = policy == context::ContextPolicy{} ? 0 : 75'000 * width;
    const auto tight = run(dtype, 260 * slot + recorded, policy, &many);
    EXPECT_EQ(none, 0);
    EXPECT_GT(many, 0) << context::Name(policy.method);
    ASSERT_EQ(roomy.size(), tight.size());
    for (size_t i = 0; i < roomy.size(); ++i) {
      EXPECT_EQ(roomy[i].tokens, tight[i].tokens);
      EXPECT_EQ(roomy[i].logprobs, tight[i].logprobs);
      ASSERT_EQ(roomy[i].events.size(), tight[i].events.size());
      for (size_t e = 0; e < roomy[i].events.size(); ++e)
        EXPECT_EQ(roomy[i].events[e].digest, tight[i].events[e].digest);
      epochs += tight[i].spans.back().kv_epoch > 0;
    }
    EXPECT_GT(epochs, 0);
  }
}

// What comes after the flip is what the new weights say of the whole log: of tokens before it too.
// With `keep` it is not.
TEST_F(EngineTest, RecomputeRebuildsTheRunningCacheUnderTheNewWeights) {
  for (const WeightsMode mode : {WeightsMode::kRecompute, WeightsMode::kKeep}) {
    auto engine = Make();
    GenerationRequest r = Request(1, 300);
    r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
    auto sink = std::make_shared<Collector>(1);
    ASSERT_TRUE(engine->Submit(r, sink).ok());
    sink->WaitForTokens(60);
    engine->Pause();
    ASSERT_TRUE(engine->UpdateWeights(Folder(2), PolicyVersion(2), mode).ok());
    const int behind = mode == WeightsMode::kKeep ? 1 : 0;
    for (int i = 0; i < 1000 && engine->load().kv_behind != behind; ++i)
      absl::SleepFor(absl::Milliseconds(5));
    EXPECT_EQ(engine->load().kv_behind, behind);
    engine->Resume();
    sink->Wait();
    const rl::Rollout& rollout = sink->finished.at(0).rollout;
    ASSERT_EQ(rollout.spans.size(), 2u);
    EXPECT_EQ(rollout.spans[1].version, PolicyVersion(2));
    EXPECT_EQ(rollout.spans[1].kv_epoch, mode == WeightsMode::kRecompute ? 1 : 0);
    const auto score = engine->Score({.tokens = rollout.tokens, .events = rollout.events});
    ASSERT_TRUE(score.ok()) << score.status();
    double worst = 0;
    for (int32_t i = rollout.spans[1].begin; i < rollout.spans[1].end; ++i)
      worst = std::max(worst, double{std::abs(score->logprobs[i - 1] - rollout.logprobs[i])});
    if (mode == WeightsMode::kRecompute) {
      EXPECT_LE(worst, 2e-4);
    } else {
      EXPECT_GT(worst, 1e-2);
    }
  }
}

// A short form of the soak: cancels at random, deadlines that pass, a pool that is always too
// small.
TEST_F(EngineTest, APausedEngineSleepsThoughNewWeightsWaitForWhatRuns) {
  auto engine = Make();
  const auto sink = std::make_shared<Collector>(1);
  ASSERT_TRUE(engine->Submit(Request(1, 400), sink).ok());
  sink->WaitForTokens(5);
  engine->Pause();
  std::thread update([&] {
    EXPECT_TRUE(engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kFinish).ok());
  });
  absl::SleepFor(absl::Milliseconds(200));  // they are staged
  const std::clock_t begin = std::clock();  // of all threads
  absl::SleepFor(absl::Milliseconds(400));
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 0.2);
  EXPECT_EQ(engine->version(), PolicyVersion(1));
  EXPECT_TRUE(sink->finished.empty());
  engine->Resume();
  update.join();
  sink->Wait();
  ASSERT_EQ(sink->finished.size(), 1u);
  EXPECT_EQ(sink->finished[0].rollout.spans.size(), 1u);
  EXPECT_EQ(engine->version(), PolicyVersion(2));
}

TEST_F(EngineTest, RandomCancelsDeadlinesAndEventsLeaveThePoolWhole) {
  const int64_t slot = 3 * 2 * (2 * 16 * 4 + 4);
  auto engine = Make({.max_running = 12, .kv_pool_bytes = 400 * slot + 200'000});
  std::vector<std::shared_ptr<Collector>> sinks;
  for (uint64_t i = 0; i < 300; ++i) {
    const auto draw = [&](uint64_t what, int n) {
      return static_cast<int>(Uniform01(7, i, what) * n);
    };
    GenerationRequest r = Request(1 + draw(0, 3), 1 + draw(1, 60));
    r.request_id = "r" + std::to_string(i);
    r.sampling.seed = i;
    if (draw(2, 3) > 0)
      r.context =
          Budget(draw(3, 2) ? context::Method::kAttentionMatching : context::Method::kMarkovian,
                 context::Chooser::kRms);
    if (draw(4, 5) == 0) r.deadline = SystemClock().Now() + absl::Milliseconds(draw(5, 200));
    sinks.push_back(std::make_shared<Collector>(r.n));
    ASSERT_TRUE(engine->Submit(r, sinks.back()).ok());
    if (draw(6, 4) == 0) engine->Cancel("r" + std::to_string(draw(7, static_cast<int>(i) + 1)));
  }
  int finished = 0, failed = 0;
  for (const auto& sink : sinks) {
    sink->Wait();
    finished += static_cast<int>(sink->finished.size());
    for (const auto& [sample, f] : sink->failed) {
      ++failed;
      EXPECT_FALSE(absl::IsInternal(f.status)) << f.status;
    }
  }
  EXPECT_GT(finished, 100);
  EXPECT_GT(failed, 20);
  ExpectPoolWhole(*engine);
}

TEST_F(EngineTest, AReferenceRangeLongerThanAnySequenceReservesNoMoreThanTheSequence) {
  auto engine = Make();
  GenerationRequest r = Request(1, 60);
  r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  r.context.reference_tokens = 16 + 60;
  const auto enough = Generate(*engine, r);
  r.context.reference_tokens = std::numeric_limits<int32_t>::max();
  const auto most = Generate(*engine, r);
  EXPECT_EQ(enough->finished[0].rollout.tokens, most->finished[0].rollout.tokens);
  ASSERT_GE(most->finished[0].rollout.events.size(), 2u);
  EXPECT_EQ(most->finished[0].rollout.events[0].reference, (context::Range{0, 40}));
}

TEST_F(EngineTest, AFullQueueAndAnOversizedSampleSaySo) {
  auto engine = Make({.max_queued = 3, .kv_pool_bytes = 200 << 10});
  const absl::Status queue = engine->Submit(Request(4, 10), std::make_shared<Collector>(4));
  EXPECT_TRUE(absl::IsResourceExhausted(queue)) << queue;
  const absl::Status pool = engine->Submit(Request(1, 580), std::make_shared<Collector>(1));
  EXPECT_TRUE(absl::IsResourceExhausted(pool)) << pool;
}

TEST_F(EngineTest, MoreSamplesThanFitRunOneAfterAnother) {
  auto engine = Make({.max_running = 3});
  const auto sink = Generate(*engine, Request(10, 20));
  EXPECT_EQ(sink->finished.size(), 10u);
  ExpectPoolWhole(*engine);
}

// The prompt of 100 is found again up to its last whole page before the last token; the answer is
// that of an engine that finds nothing, bit for bit where sums have one order.
TEST_F(EngineTest, APromptThatBeginsLikeAnotherIsNotProcessedAgain) {
  std::atomic<int> found = 0;
  const auto make = [&](bool cache) {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .batch_invariant = true,
                              .limits = {.prefix_cache = cache, .check_pages = true},
                              .observer = {.prefix_hit = [&](int tokens) { found += tokens; }}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  };
  const auto with = make(true), without = make(false);
  GenerationRequest first = Request(2, 30);
  while (first.prompt.size() < 100) first.prompt.push_back(first.prompt.size() % 250);
  Generate(*with, first);
  EXPECT_EQ(found, 0);
  GenerationRequest second = first;
  second.prompt.resize(90);
  second.prompt.insert(second.prompt.end(), 40, 3);
  for (const GenerationRequest& r : {first, second}) {
    const auto a = Generate(*with, r), b = Generate(*without, r);
    for (int sample : {0, 1}) {
      EXPECT_EQ(a->finished[sample].rollout.tokens, b->finished[sample].rollout.tokens);
      EXPECT_EQ(a->finished[sample].rollout.logprobs, b->finished[sample].rollout.logprobs);
    }
  }
  EXPECT_EQ(found, 96 + 80);
  // What the samples wrote behind their prompt is known, too.
  GenerationRequest next = first;
  next.prompt = Generate(*with, first)->finished[0].rollout.tokens;
  found = 0;
  Generate(*with, next);
  EXPECT_EQ(found, 128);
  // New weights: nothing old is found, and what is made is theirs.
  ASSERT_TRUE(with->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep).ok());
  found = 0;
  const auto fresh = Generate(*with, next);
  EXPECT_EQ(found, 0);
  const auto score = with->Score({.tokens = fresh->finished[0].rollout.tokens});
  for (size_t p = next.prompt.size(); p <= score->logprobs.size(); ++p)
    EXPECT_NEAR(score->logprobs[p - 1], fresh->finished[0].rollout.logprobs[p], 2e-4);
  ExpectPoolWhole(*with);
}

// Under compaction a hit ends before the first position that an event may listen to or fall on, so
// the events are the same; compacted pages are never found.
TEST_F(EngineTest, AHitNeverChangesAnEvent) {
  int found = 0;
  for (const auto& [method, chooser] :
       {std::pair{context::Method::kAttentionMatching, context::Chooser::kRms},
        std::pair{context::Method::kEvict, context::Chooser::kRecent}}) {
    GenerationRequest r = Request(2, 60);
    while (r.prompt.size() < 70) r.prompt.push_back(r.prompt.size() % 250);
    r.context = Budget(method, chooser);
    r.context.trigger = context::KvBudget{.budget = 64, .window = 20, .keep_ratio = 0.4};
    r.context.protect = 4;  // events inside the prompt
    std::vector<std::shared_ptr<Collector>> runs;
    for (const bool cache : {false, true}) {
      auto engine = MakeEngine({.model_folder = Folder(1),
                                .version = PolicyVersion(1),
                                .batch_invariant = true,
                                .limits = {.prefix_cache = cache, .check_pages = true},
                                .observer = {.prefix_hit = [&](int tokens) { found += tokens; }}});
      GenerationRequest plain = r;
      plain.context = {};
      Generate(**engine, plain);  // leaves pages
      runs.push_back(Generate(**engine, r));
      runs.push_back(Generate(**engine, r));
    }
    for (const auto& run : runs) {
      const rl::Rollout &a = runs[0]->finished[1].rollout, &b = run->finished[1].rollout;
      EXPECT_EQ(a.tokens, b.tokens);
      EXPECT_EQ(a.logprobs, b.logprobs);
      ASSERT_GE(a.events.size(), 2u);
      EXPECT_EQ(a.events.back().digest, b.events.back().digest);
    }
  }
  EXPECT_GT(found, 0);
}

// Pages that are only kept for others are given away first: a full cache never costs a sequence.
TEST_F(EngineTest, KeptPrefixesGiveWayToWhatRuns) {
  int preempted = 0;
  auto engine = MakeEngine({.model_folder = Folder(1),
                            .version = PolicyVersion(1),
                            .limits = {.kv_pool_bytes = 600 << 10, .check_pages = true},
                            .observer = {.preempted = [&] { ++preempted; }}});
  ASSERT_TRUE(engine.ok());
  for (int i = 0; i < 12; ++i) {
    GenerationRequest r = Request(1, 100);
    r.request_id = std::to_string(i);
    while (r.prompt.size() < 200) r.prompt.push_back((r.prompt.size() + 7 * i) % 250);
    r.prompt[0] = i;
    EXPECT_EQ(Generate(**engine, r)->finished.size(), 1u);
  }
  EXPECT_EQ(preempted, 0);
  ExpectPoolWhole(**engine);
}

TEST_F(EngineTest, PromptLogProbabilitiesAreThoseOfScore) {
  auto engine = Make({.prefill_tokens = 7});
  GenerationRequest r = Request(2, 5);
  while (r.prompt.size() < 90) r.prompt.push_back(r.prompt.size() % 250);
  r.sampling.prompt_logprobs = 3;
  for (const bool compacts : {false, true}) {
    if (compacts) {
      r.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
      r.context.protect = 4;
    }
    const auto sink = Generate(*engine, r);
    for (const int sample : {0, 1}) {
      const Finished& f = sink->finished[sample];
      const auto score =
          engine->Score({.tokens = f.rollout.tokens, .events = f.rollout.events, .top = 3});
      ASSERT_TRUE(score.ok()) << score.status();
      ASSERT_EQ(score->top.size(), f.rollout.tokens.size() - 1);
      ASSERT_EQ(f.prompt_logprobs.size(), 89u);
      ASSERT_EQ(f.prompt_top.size(), 89u);
      for (size_t i = 0; i < 89; ++i) {
        EXPECT_NEAR(f.prompt_logprobs[i], score->logprobs[i], 2e-4);
        EXPECT_EQ(f.prompt_top[i].ids.size(), 3u);
        EXPECT_GE(f.prompt_top[i].logprobs[0], f.prompt_logprobs[i]);
        for (size_t k = 0; k < 3; ++k)
          EXPECT_NEAR(score->top[i].logprobs[k], f.prompt_top[i].logprobs[k], 2e-4);
      }
    }
  }
  r.sampling.prompt_logprobs.reset();
  EXPECT_TRUE(Generate(*engine, r)->finished[0].prompt_logprobs.empty());
}

// Requests that are served one at a time, and in which order they end; a failure is marked.
class QueueTest : public EngineTest {
 protected:
  QueueTest() { engine_->Pause(); }
  void Ask(const std::string& client, const std::string& id, int priority = 0,
           int max_tokens = 10) {
    GenerationRequest r = Request(1, max_tokens);
    r.request_id = id;
    r.client = client;
    r.priority = priority;
    EXPECT_TRUE(engine_->Submit(r, std::make_shared<Recorder>(id, mu_, order_)).ok());
  }
  std::vector<std::string> Order() {
    engine_->Resume();
    engine_->Drain(absl::Seconds(60));
    absl::MutexLock lock(&mu_);
    return order_;
  }

 private:
  class Recorder final : public GenerationSink {
   public:
    Recorder(std::string name, absl::Mutex& lock, std::vector<std::string>& ended)
        : name_(std::move(name)), mu_(lock), ended_(ended) {}
    void OnTokens(TokenChunk) override {}
    void OnEvent(int32_t, const context::Event&) override {}
    void OnFinished(Finished) override { Tell(""); }
    void OnFailure(Failure) override { Tell("!"); }

   private:
    void Tell(const char* mark) {
      absl::MutexLock lock(&mu_);
      ended_.push_back(name_ + mark);
    }
    std::string name_;
    absl::Mutex& mu_;
    std::vector<std::string>& ended_;
  };
  absl::Mutex mu_;
  std::vector<std::string> order_;

 protected:
  const std::unique_ptr<Engine> engine_ = Make({.max_running = 1});
};

// A client that asked for six before another asked for one does not make it wait for all six.
TEST_F(QueueTest, ClientsGetFairShares) {
  for (int i = 0; i < 6; ++i) Ask("many", "m" + std::to_string(i));
  Ask("one", "o");
  Ask("many", "urgent", 1);
  EXPECT_EQ(Order(), (std::vector<std::string>{"urgent", "m0", "o", "m1", "m2", "m3", "m4", "m5"}));
}

TEST_F(QueueTest, WhatIsCancelledInTheQueueCostsItsClientNothing) {
  Ask("a", "long", 0, 500);
  Ask("a", "longer", 0, 550);
  Ask("b", "b0");
  Ask("b", "b1");
  Ask("a", "a0");
  engine_->Cancel("long");
  engine_->Cancel("longer");
  std::vector<std::string> order = Order();
  EXPECT_EQ(order.size(), 5u);
  std::erase_if(order, [](const std::string& name) { return name.back() == '!'; });
  EXPECT_EQ(order, (std::vector<std::string>{"b0", "a0", "b1"}));
}

TEST_F(QueueTest, HigherPrioritiesGoFirstAndEqualOnesInTheirOrder) {
  Ask("a", "last", -3);
  Ask("a", "first", 7);
  Ask("a", "third", 0);
  Ask("a", "second", 7);
  EXPECT_EQ(Order(), (std::vector<std::string>{"first", "second", "third", "last"}));
}

}  // namespace
}  // namespace palimpsest::inference
