#include "services/inference/core/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <stdexcept>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/base/random.h"
#include "common/model/decoder.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "services/inference/engine/engine_factory.h"

namespace palimpsest::inference {
namespace {

// Remembers everything; wakes who waits for the end of all samples.
class Collector final : public GenerationSink {
 public:
  explicit Collector(int samples) : left_(samples) {}
  void OnTokens(TokenChunk chunk) override {
    absl::MutexLock lock(&mu_);
    streamed_[chunk.sample].insert(streamed_[chunk.sample].end(), chunk.ids.begin(),
                                   chunk.ids.end());
    text_[chunk.sample] += chunk.text;
  }
  void OnEvent(int32_t sample, const context::Event&) override {
    absl::MutexLock lock(&mu_);
    ++events_[sample];
  }
  void OnFinished(Finished f) override {
    absl::MutexLock lock(&mu_);
    finished[f.sample] = std::move(f);
    --left_;
  }
  void OnFailure(Failure f) override {
    absl::MutexLock lock(&mu_);
    failed.emplace(f.sample, std::move(f));
    --left_;
  }
  void Wait() {
    absl::MutexLock lock(&mu_);
    const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return left_ == 0; };
    ASSERT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&done), absl::Seconds(60)));
  }
  void WaitForTokens(size_t n) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return streamed_[0].size() >= n; };
    ASSERT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(60)));
  }
  std::map<int32_t, Finished> finished;
  std::map<int32_t, Failure> failed;
  std::map<int32_t, std::vector<int32_t>> streamed_;
  std::map<int32_t, std::string> text_;
  std::map<int32_t, int> events_;

 private:
  absl::Mutex mu_;
  int left_;
};

class EngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (int version = 1; version <= 2; ++version) {
      std::filesystem::create_directories(Folder(version));
      const auto decoder = model::Decoder::Random(Config(), version, model::DType::kFloat32);
      ASSERT_TRUE(decoder->Save(Folder(version)).ok());
      const std::vector<std::string> special = {"<|end|>"};
      std::ofstream(Folder(version) + "/tokenizer.json") << *ByteTokenizerJson(special);
    }
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(Root()); }

  static std::string Root() {
    return ::testing::TempDir() + "/engine_test_" + std::to_string(getpid());
  }
  static std::string Folder(int version) { return Root() + "/v" + std::to_string(version); }
  static model::ModelConfig Config() {
    return {.layers = 3,
            .hidden = 64,
            .intermediate = 96,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 16,
            .vocab = 257,
            .max_position = 600};
  }
  static std::unique_ptr<Engine> Make(Limits limits = {}) {
    limits.check_pages = true;
    auto engine =
        MakeEngine({.model_folder = Folder(1), .version = PolicyVersion(1), .limits = limits});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static GenerationRequest Request(int n = 1, int max_tokens = 100) {
    GenerationRequest r{.request_id = "r", .n = n};
    for (int i = 0; i < 16; ++i) r.prompt.push_back(40 + (i * 37) % 200);
    r.sampling.max_tokens = max_tokens;
    r.sampling.seed = 11;
    r.sampling.ignore_eos = true;
    return r;
  }
  static context::ContextPolicy Budget(context::Method method, context::Chooser chooser) {
    context::ContextPolicy p{
        .trigger = context::KvBudget{.budget = 40, .window = 20, .keep_ratio = 0.4},
        .method = method,
        .reference_tokens = 24};
    p.parameters.chooser = chooser;
    return p;
  }
  // The last word to a sink comes a moment before the engine's books are closed.
  static void ExpectPoolWhole(Engine& engine) {
    for (int i = 0; i < 1000 && engine.load().kv_bytes_free != engine.limits().kv_pool_bytes; ++i) {
      SystemClock().SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ(engine.load().kv_bytes_free, engine.limits().kv_pool_bytes);
  }
  static std::shared_ptr<Collector> Generate(Engine& engine, GenerationRequest r) {
    auto sink = std::make_shared<Collector>(r.n);
    const absl::Status status = engine.Submit(std::move(r), sink);
    EXPECT_TRUE(status.ok()) << status;
    sink->Wait();
    return sink;
  }
};

// The number of the design's section 11: sampled against replayed log-probability.
TEST_F(EngineTest, SampledEqualsReplayedLogProbabilityUnderManyEvents) {
  auto engine = Make();
  const std::pair<context::Method, context::Chooser> methods[] = {
      {context::Method::kAttentionMatching, context::Chooser::kRms},
      {context::Method::kAttentionMatching, context::Chooser::kOmp},
      {context::Method::kAttentionMatching, context::Chooser::kMax},
      {context::Method::kEvict, context::Chooser::kAttention},
      {context::Method::kEvict, context::Chooser::kRecent},
      {context::Method::kEvict, context::Chooser::kRandom},
      {context::Method::kMarkovian, context::Chooser::kRms}};
  for (const auto& [method, chooser] : methods) {
    GenerationRequest r = Request(4, 150);
    r.context = Budget(method, chooser);
    const auto sink = Generate(*engine, r);
    std::map<size_t, std::pair<double, int>> by_events;
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
        by_events[before].first = std::max(by_events[before].first, d);
      }
    }
    std::printf("%s/%s: max abs %.2e, mean %.2e; max by events:", std::string(Name(method)).c_str(),
                std::string(Name(chooser)).c_str(), worst, sum / count);
    for (const auto& [events, stat] : by_events) std::printf(" %zu:%.0e", events, stat.first);
    std::printf("\n");
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

// Keys and queries are recorded side by side: one wave solves events of both kinds.
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
        {context::Method::kEvict, context::Chooser::kAttention}};
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
  const auto run = [&](int64_t bytes, context::ContextPolicy policy, int* preemptions) {
    auto engine = MakeEngine({.model_folder = Folder(1),
                              .version = PolicyVersion(1),
                              .batch_invariant = true,
                              .limits = {.kv_pool_bytes = bytes, .check_pages = true},
                              .observer = {.preempted = [preemptions] { ++*preemptions; }}});
    EXPECT_TRUE(engine.ok()) << engine.status();
    std::vector<std::shared_ptr<Collector>> sinks;
    for (int i = 0; i < 2; ++i) {
      GenerationRequest r = Request(6, 80);
      r.request_id = "r" + std::to_string(i);
      r.sampling.seed = 5 + i;
      r.context = policy;
      sinks.push_back(std::make_shared<Collector>(6));
      EXPECT_TRUE((*engine)->Submit(r, sinks.back()).ok());
    }
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
  for (const context::ContextPolicy& policy : policies) {
    int none = 0, many = 0, epochs = 0;
    const auto roomy = run(64 << 20, policy, &none);
    // A slot is 3 layers x 2 heads x (2 x 16 floats and a bias).
    const int64_t slot = 3 * 2 * (2 * 16 * 4 + 4);
    const auto tight =
        run(260 * slot + (policy == context::ContextPolicy{} ? 0 : 300'000), policy, &many);
    EXPECT_EQ(none, 0);
    EXPECT_GT(many, 0);
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
    ASSERT_TRUE(engine->UpdateWeights(Folder(2), PolicyVersion(2), mode).ok());
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

// Every look at it is a second later: a layer of an event takes as long as a median step.
class RestlessClock final : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch() + absl::Seconds(++looks_); }
  void SleepFor(absl::Duration) override {}

 private:
  std::atomic<int64_t> looks_ = 0;
};

// Tells in one list who got what.
class Teller final : public GenerationSink {
 public:
  Teller(char name, std::string& told, absl::Mutex& mu) : name_(name), told_(told), mu_(mu) {}
  void OnTokens(TokenChunk chunk) override {
    absl::MutexLock lock(&mu_);
    told_.append(chunk.ids.size(), name_);
  }
  void OnEvent(int32_t, const context::Event&) override {
    absl::MutexLock lock(&mu_);
    told_ += '!';
  }
  void OnFinished(Finished) override { done.Notify(); }
  void OnFailure(Failure) override { done.Notify(); }
  absl::Notification done;

 private:
  char name_;
  std::string& told_;
  absl::Mutex& mu_;
};

TEST_F(EngineTest, AnEventOfThreeLayersIsSpreadOverThreeStepsOfTheOthers) {
  RestlessClock clock;
  auto engine = MakeEngine({.model_folder = Folder(1),
                            .version = PolicyVersion(1),
                            .limits = {.check_pages = true},
                            .clock = &clock});
  ASSERT_TRUE(engine.ok());
  std::string told;
  absl::Mutex mu;
  GenerationRequest a = Request(1, 60), b = Request(1, 120);
  a.context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  b.request_id = "b";
  const auto sink_a = std::make_shared<Teller>('a', told, mu),
             sink_b = std::make_shared<Teller>('b', told, mu);
  (*engine)->Pause();
  ASSERT_TRUE((*engine)->Submit(a, sink_a).ok());
  ASSERT_TRUE((*engine)->Submit(b, sink_b).ok());
  (*engine)->Resume();
  sink_a->done.WaitForNotification();
  sink_b->done.WaitForNotification();
  // a.b.a.b., and where an event falls due b gets its tokens alone, one per layer but the last.
  ASSERT_NE(told.find('!'), std::string::npos) << told;
  EXPECT_NE(told.find("bbb!"), std::string::npos) << told;
  EXPECT_EQ(told.substr(0, told.rfind('a')).find("bbbb"), std::string::npos) << told;
}

// A short form of the soak: cancels at random, deadlines that pass, a pool that is always too
// small.
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

TEST_F(EngineTest, StopIdsStayInTheIdsAndStopStringsCutTextOnly) {
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
