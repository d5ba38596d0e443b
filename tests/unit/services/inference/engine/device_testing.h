#pragma once

#include <functional>
#include <string>
#include <vector>

#include "services/inference/core/admission.h"
#include "tests/unit/services/inference/engine/session_testing.h"

namespace palimpsest::inference {

// The same requests to the CPU's engine and to the one on a GPU: over the kernels' emulation where
// there is no CUDA. A model as small as the kernels know it: heads are 64 wide.
class DeviceTest : public SessionTest {
 protected:
  // Sampled against the other engine's, and against replay: nats.
  static constexpr double kBound = 2e-4;
  static constexpr int kVocab = 93;

  static void SetUpTestSuite() {
    for (int version = 1; version <= 2; ++version) SaveModel(Config(), version, Folder(version));
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(Root()); }
  static std::string Root() {
    return ::testing::TempDir() + "/device_test_" + std::to_string(getpid());
  }
  static std::string Folder(int version) { return Root() + "/v" + std::to_string(version); }
  static void SaveModel(const model::ModelConfig& config, int seed, const std::string& folder) {
    std::filesystem::create_directories(folder);
    ASSERT_TRUE(model::Decoder::Random(config, seed, model::DType::kFloat32)->Save(folder).ok());
  }
  static model::ModelConfig Config() {
    return {.layers = 2,
            .hidden = 64,
            .intermediate = 72,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 64,
            .vocab = kVocab,
            .max_position = 300};
  }

  static EngineOptions On(const std::string& device, Limits limits = SmallPool()) {
    limits.check_pages = true;
    return {.model_folder = Folder(1),
            .with_tokenizer = false,
            .version = PolicyVersion(1),
            .device = device,
#ifndef PALIMPSEST_ON_GPU
            .emulated = true,
#endif
            .limits = limits};
  }
  static Limits SmallPool() { return {.kv_pool_bytes = 4 << 20}; }
  static std::unique_ptr<Engine> Start(EngineOptions options) {
    auto engine = MakeEngine(std::move(options));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static GenerationRequest Ask(const std::string& id, int n, int max_tokens, int prompt = 18) {
    GenerationRequest r{.request_id = id, .n = n};
    for (int i = 0; i < prompt; ++i)
      r.prompt.push_back((i * 37 + static_cast<int>(id.size()) * 5) % kVocab);
    r.sampling.max_tokens = max_tokens;
    r.sampling.seed = 11;
    r.sampling.ignore_eos = true;
    return r;
  }
  static context::ContextPolicy Budget(context::Method method, context::Chooser chooser) {
    context::ContextPolicy p{
        .trigger = context::KvBudget{.budget = 34, .window = 16, .keep_ratio = 0.4},
        .method = method,
        .reference_tokens = 10};
    p.parameters.chooser = chooser;
    return p;
  }
  // All at once; by request, then sample.
  static std::vector<rl::Rollout> All(Engine& engine, const std::vector<GenerationRequest>& asked) {
    engine.Pause();
    std::vector<std::shared_ptr<Collector>> sinks;
    for (const GenerationRequest& r : asked) {
      sinks.push_back(std::make_shared<Collector>(r.n));
      const absl::Status status = engine.Submit(r, sinks.back());
      EXPECT_TRUE(status.ok()) << status;
    }
    engine.Resume();
    std::vector<rl::Rollout> rollouts;
    for (const auto& sink : sinks) {
      sink->Wait();
      for (const auto& [sample, failure] : sink->failed) ADD_FAILURE() << failure.status;
      for (const auto& [sample, f] : sink->finished) rollouts.push_back(f.rollout);
    }
    return rollouts;
  }

  // The same choices; numbers within the bound.
  static void ExpectAlike(const rl::Rollout& cpu, const rl::Rollout& gpu) {
    SCOPED_TRACE(cpu.id);
    EXPECT_EQ(cpu.tokens, gpu.tokens);
    ASSERT_EQ(cpu.logprobs.size(), gpu.logprobs.size());
    for (size_t p = 0; p < cpu.logprobs.size(); ++p)
      EXPECT_NEAR(cpu.logprobs[p], gpu.logprobs[p], kBound) << "position " << p;
    ASSERT_EQ(cpu.events.size(), gpu.events.size());
    for (size_t i = 0; i < cpu.events.size(); ++i) {
      const context::Event &a = cpu.events[i], &b = gpu.events[i];
      EXPECT_EQ(a.at, b.at);
      EXPECT_EQ(a.window, b.window);
      EXPECT_EQ(a.kept, b.kept) << "event " << i;
      EXPECT_EQ(a.digest, b.digest) << "event " << i;
      EXPECT_NEAR(a.quality.mass_error, b.quality.mass_error, 1e-3);
      EXPECT_NEAR(a.quality.output_error, b.quality.output_error, 1e-3);
      EXPECT_LE(b.quality.kkt_residual, 1e-8);
    }
  }
  // How far sampled log-probabilities are from those of a replay of the log: largest, mean.
  static std::pair<double, double> FromReplay(Engine& engine, const rl::Rollout& r,
                                              const std::vector<context::Event>& events) {
    const auto score = engine.Score({.tokens = r.tokens, .events = events});
    EXPECT_TRUE(score.ok()) << score.status();
    double worst = 0, sum = 0;
    int count = 0;
    for (size_t p = r.prompt_tokens; score.ok() && p < r.tokens.size(); ++p, ++count) {
      const double off = std::abs(score->logprobs[p - 1] - r.logprobs[p]);
      worst = std::max(worst, off);
      sum += off;
    }
    return {worst, sum / std::max(1, count)};
  }
};

}  // namespace palimpsest::inference
