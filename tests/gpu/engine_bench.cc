// Decoding by the engine on a GPU: tokens per second at 1, 16, 64 and 256 sequences, against what
// the memory's bandwidth allows, and how much of the time events take.
// Usage: gpu_engine_bench [model folder]; without one a model of Qwen3-0.6B's shape, random
// weights.
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/cuda/memory.h"
#include "common/model/decoder.h"
#include "services/inference/core/admission.h"
#include "services/inference/engine/engine_factory.h"

namespace palimpsest::inference {
namespace {

constexpr int kPrompt = 64, kTokens = 512;

class Waiter final : public GenerationSink {
 public:
  explicit Waiter(int samples) : left_(samples) {}
  void OnTokens(TokenChunk) override {}
  void OnEvent(int32_t, const context::Event&) override {}
  void OnFinished(Finished) override { Done(); }
  void OnFailure(Failure f) override {
    std::fprintf(stderr, "%s\n", f.status.ToString().c_str());
    failed = true;
    Done();
  }
  absl::Notification done;
  bool failed = false;

 private:
  void Done() {
    if (--left_ == 0) done.Notify();
  }
  int left_;
};

double Seconds(absl::Time since) { return absl::ToDoubleSeconds(SystemClock().Now() - since); }

// Bytes read and written by a large copy on the device, per second.
double CopyBandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr int kTimes = 20;
  const cuda::DeviceMemory from(kBytes), to(kBytes);
  const cuda::OwnedStream stream;
  const auto copy = [&] {
    cuda::CopyOnDevice(to.as<char>(), from.as<char>(), kBytes, stream.get());
  };
  copy();
  cuda::Wait(stream.get());
  const absl::Time begin = SystemClock().Now();
  for (int i = 0; i < kTimes; ++i) copy();
  cuda::Wait(stream.get());
  return 2.0 * kBytes * kTimes / Seconds(begin);
}

model::ModelConfig SmallQwen3() {
  return {.layers = 28,
          .hidden = 1024,
          .intermediate = 3072,
          .heads = 16,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 151936,
          .max_position = 4096,
          .rope_theta = 1e6,
          .tied_embeddings = true};
}

// Bytes of the weights that a step reads: all but an embedding that is not the head, too.
double WeightBytes(const model::ModelConfig& c) {
  const double width = static_cast<double>(c.heads + 2 * c.kv_heads) * c.head_dim,
               layer = c.hidden *
                       (width + static_cast<double>(c.heads) * c.head_dim + 3.0 * c.intermediate);
  return 2 * (c.layers * layer + static_cast<double>(c.vocab) * c.hidden);
}

struct Measured {
  double tokens_per_second = 0, event_share = 0;
};

Measured Decode(Engine& engine, int sequences, bool compacts, const double& event_seconds) {
  GenerationRequest r{.request_id = absl::StrFormat("%d%d", sequences, compacts),
                      .prompt = std::vector<int32_t>(kPrompt, 65),
                      .n = sequences};
  r.sampling.max_tokens = kTokens;
  r.sampling.ignore_eos = true;
  if (compacts) {
    r.context = {.trigger = context::KvBudget{.budget = 288, .window = 128, .keep_ratio = 0.25},
                 .method = context::Method::kAttentionMatching,
                 .reference_tokens = 64};
  }
  const auto waiter = std::make_shared<Waiter>(sequences);
  const double before = event_seconds;
  const absl::Time begin = SystemClock().Now();
  const absl::Status accepted = engine.Submit(r, waiter);
  if (!accepted.ok()) {
    std::fprintf(stderr, "%s\n", accepted.ToString().c_str());
    return {};
  }
  waiter->done.WaitForNotification();
  const double seconds = Seconds(begin);
  if (waiter->failed) return {};
  return {sequences * kTokens / seconds, (event_seconds - before) / seconds};
}

int Main(int argc, char** argv) {
  std::string folder = argc > 1 ? argv[1] : "";
  const std::string made =
      std::filesystem::temp_directory_path() / ("engine_bench_" + std::to_string(getpid()));
  if (folder.empty()) {
    folder = made;
    std::filesystem::create_directories(made);
    if (!model::Decoder::Random(SmallQwen3(), 1, model::DType::kBFloat16)->Save(made).ok())
      return 1;
  }
  double event_seconds = 0;
  EngineOptions options{.model_folder = folder,
                        .with_tokenizer = false,
                        .version = PolicyVersion(1),
                        .dtype = "bfloat16",
                        .device = "cuda",
                        .limits = {.max_running = 257, .kv_pool_bytes = int64_t{24} << 30}};
  options.observer.compaction = [&](context::Method, double s) { event_seconds += s; };
  const auto engine = MakeEngine(options);
  const auto config = model::ReadModelConfig(folder);
  std::filesystem::remove_all(made);
  if (!engine.ok() || !config.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
    return 1;
  }
  const double bandwidth = CopyBandwidth();
  std::printf(
      "copy on the device: %.0f GB/s; %d layers, hidden %d, bf16, prompts of %d, %d tokens\n",
      bandwidth / 1e9, config->layers, config->hidden, kPrompt, kTokens);
  std::printf(
      "| sequences | tokens/s | of the bandwidth's limit | with events, tokens/s | of the time, "
      "events |\n");
  std::printf("|---|---|---|---|---|\n");
  const double slot = static_cast<double>(CostOf((*engine)->model()).page_bytes) / 16;
  Decode(**engine, 1, true, event_seconds);  // loads kernels
  bool failed = false;
  for (const int n : {1, 16, 64, 256}) {
    Decode(**engine, n, false, event_seconds);  // captures graphs
    const Measured plain = Decode(**engine, n, false, event_seconds),
                   compacting = Decode(**engine, n, true, event_seconds);
    const double step = (WeightBytes(*config) + n * slot * (kPrompt + kTokens / 2.0)) / bandwidth;
    std::printf("| %d | %.0f | %.2f | %.0f | %.1f %% |\n", n, plain.tokens_per_second,
                plain.tokens_per_second * step / n, compacting.tokens_per_second,
                100 * compacting.event_share);
    failed |= plain.tokens_per_second == 0 || compacting.tokens_per_second == 0;
  }
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) { return palimpsest::inference::Main(argc, argv); }
