// The inter-token gap of sequences that do not compact: alone, while others beside them do, and
// while prompts of 256 tokens come in one after another. Shape: 8 layers, hidden 512, 8 query and 4
// KV heads of 64, vocabulary 4096, bf16. Usage: gap_bench [others] [compacting] [tokens]
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/synchronization/blocking_counter.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "common/model/huge_pages.h"
#include "services/inference/engine/engine_factory.h"

namespace palimpsest::inference {
namespace {

class Gaps final : public GenerationSink {
 public:
  explicit Gaps(absl::BlockingCounter& left) : left_(left) {}
  void OnTokens(TokenChunk) override {
    const absl::Time now = SystemClock().Now();
    if (last_ != absl::InfinitePast()) seconds.push_back(absl::ToDoubleSeconds(now - last_));
    last_ = now;
  }
  void OnEvent(int32_t, const context::Event&) override { ++events; }
  void OnFinished(Finished) override { left_.DecrementCount(); }
  void OnFailure(Failure f) override {
    std::fprintf(stderr, "%s\n", f.status.ToString().c_str());
    std::exit(1);
  }
  std::vector<double> seconds;
  int events = 0;

 private:
  absl::BlockingCounter& left_;
  absl::Time last_ = absl::InfinitePast();
};

double Quantile(std::vector<double> x, double q) {
  std::sort(x.begin(), x.end());
  return x[std::min(x.size() - 1, static_cast<size_t>(q * static_cast<double>(x.size())))];
}

// One that nothing is known of, from its arrival to its first token.
void TakeInPrompt(Engine& engine, int number) {
  GenerationRequest r{.request_id = "prompt" + std::to_string(number)};
  for (int i = 0; i < 256; ++i) r.prompt.push_back((number * 257 + i * 31 + 1) % 4096);
  r.sampling.max_tokens = 1;
  absl::BlockingCounter first(1);
  if (!engine.Submit(r, std::make_shared<Gaps>(first)).ok()) std::exit(1);
  first.Wait();
}

void Measure(Engine& engine, int others, int compacting, int prompts, int tokens) {
  absl::BlockingCounter left(others + compacting);
  std::vector<std::shared_ptr<Gaps>> sinks;
  for (int i = 0; i < others + compacting; ++i) {
    GenerationRequest r{.request_id = std::to_string(i), .prompt = std::vector<int32_t>(64, 65)};
    r.sampling.max_tokens = tokens;
    r.sampling.ignore_eos = true;
    r.sampling.seed = i;
    if (i >= others) {
      r.context = {.trigger = context::KvBudget{.budget = 320, .window = 192, .keep_ratio = 0.25},
                   .method = context::Method::kAttentionMatching,
                   .reference_tokens = 64};
    }
    sinks.push_back(std::make_shared<Gaps>(left));
    if (!engine.Submit(r, sinks.back()).ok()) std::exit(1);
  }
  for (int i = 0; i < prompts; ++i) TakeInPrompt(engine, i);
  left.Wait();
  std::vector<double> gaps;
  int events = 0;
  for (int i = 0; i < others + compacting; ++i) {
    events += sinks[i]->events;
    if (i < others) gaps.insert(gaps.end(), sinks[i]->seconds.begin(), sinks[i]->seconds.end());
  }
  const double median = Quantile(gaps, 0.5);
  std::printf(
      "{\"others\": %d, \"compacting\": %d, \"events\": %d, \"prompts\": %d, \"gap_median_s\": "
      "%.5f, "
      "\"gap_p99_s\": %.5f, \"gap_max_s\": %.5f, \"p99_over_median\": %.2f}\n",
      others, compacting, events, prompts, median, Quantile(gaps, 0.99), Quantile(gaps, 1),
      Quantile(gaps, 0.99) / median);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const int others = argc > 1 ? std::atoi(argv[1]) : 8,
            compacting = argc > 2 ? std::atoi(argv[2]) : 4;
  const int tokens = argc > 3 ? std::atoi(argv[3]) : 600;
  const std::string folder =
      std::filesystem::temp_directory_path() / ("gap_bench_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const model::ModelConfig config{.layers = 8,
                                  .hidden = 512,
                                  .intermediate = 1536,
                                  .heads = 8,
                                  .kv_heads = 4,
                                  .head_dim = 64,
                                  .vocab = 4096,
                                  .max_position = 4096};
  if (!model::Decoder::Random(config, 1, model::DType::kBFloat16)->Save(folder).ok()) return 1;
  auto engine =
      MakeEngine({.model_folder = folder, .version = PolicyVersion(1), .dtype = "bfloat16"});
  if (!engine.ok()) return 1;
  Measure(**engine, others, 0, 0, tokens);
  Measure(**engine, others, compacting, 0, tokens);
  Measure(**engine, others, 0, 8, tokens);
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::inference::Main(argc, argv);
}
