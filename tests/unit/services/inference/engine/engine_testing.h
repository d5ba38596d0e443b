#pragma once

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
#include "services/inference/core/engine.h"
#include "services/inference/engine/engine_factory.h"

namespace palimpsest::inference {

// Remembers everything; wakes who waits for the end of all samples.
class Collector final : public GenerationSink {
 public:
  explicit Collector(int samples) : left_(samples) {}
  void OnTokens(TokenChunk chunk) override {
    absl::MutexLock lock(&mu_);
    streamed_[chunk.sample].insert(streamed_[chunk.sample].end(), chunk.ids.begin(),
                                   chunk.ids.end());
    text_[chunk.sample] += chunk.text;
    top.insert(top.end(), chunk.top.begin(), chunk.top.end());
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
  std::vector<Alternatives> top;  // of all samples
  std::map<int32_t, Failure> failed;
  std::map<int32_t, std::vector<int32_t>> streamed_;
  std::map<int32_t, std::string> text_;
  std::map<int32_t, int> events_;

 private:
  absl::Mutex mu_;
  int left_;
};

// Every look at it is a second later.
class RestlessClock final : public Clock {
 public:
  absl::Time Now() override { return absl::UnixEpoch() + absl::Seconds(++looks_); }
  void SleepFor(absl::Duration) override {}

 private:
  std::atomic<int64_t> looks_ = 0;
};

// Tokens and events of two logs, to the last bit.
inline void ExpectSame(const rl::Rollout& a, const rl::Rollout& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.origins, b.origins);
  EXPECT_EQ(a.logprobs, b.logprobs);
  ASSERT_EQ(a.events.size(), b.events.size());
  for (size_t i = 0; i < a.events.size(); ++i) {
    EXPECT_EQ(a.events[i].at, b.events[i].at);
    EXPECT_EQ(a.events[i].kept, b.events[i].kept);
    EXPECT_EQ(a.events[i].digest, b.events[i].digest);
  }
}

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

}  // namespace palimpsest::inference
