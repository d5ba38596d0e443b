// Decoding under compaction against decoding without, in one run, interleaved: tokens per second of
// the engine. Usage: decode_bench [samples] [tokens] [rounds] [spread]
// spread: the samples are those of so many prompts, each a token longer than the one before, so
// that their events fall due in different steps (1: all at once, the best case).
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "common/model/huge_pages.h"
#include "services/inference/engine/engine_factory.h"
#include "tests/bench/small_model.h"

namespace palimpsest::inference {
namespace {

class Waiter final : public GenerationSink {
 public:
  explicit Waiter(int samples) : left_(samples) {}
  void OnTokens(TokenChunk) override {}
  void OnEvent(int32_t, const context::Event&) override { ++events; }
  void OnFinished(Finished) override { Done(); }
  void OnFailure(Failure f) override {
    std::fprintf(stderr, "%s\n", f.status.ToString().c_str());
    std::exit(1);
  }
  absl::Notification done;
  int events = 0;

 private:
  void Done() {
    if (--left_ == 0) done.Notify();
  }
  int left_;
};

struct Variant {
  const char* name;
  context::ContextPolicy policy;
  std::vector<double> tokens_per_second = {};
  double events = 0;
};

int Main(int argc, char** argv) {
  const int samples = argc > 1 ? std::atoi(argv[1]) : 128,
            tokens = argc > 2 ? std::atoi(argv[2]) : 154;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 3, spread = argc > 4 ? std::atoi(argv[4]) : 1;
  if (samples < 1 || tokens < 1 || rounds < 1 || spread < 1 || samples % spread != 0) {
    std::fprintf(stderr,
                 "usage: decode_bench [samples] [tokens] [rounds] [spread], samples a "
                 "multiple of spread, all > 0\n");
    return 2;
  }
  const std::string folder =
      std::filesystem::temp_directory_path() / ("decode_bench_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  if (!model::Decoder::Random(bench::SmallModel(), 1, model::DType::kFloat32)->Save(folder).ok())
    return 1;
  auto engine = MakeEngine({.model_folder = folder,
                            .version = PolicyVersion(1),
                            .limits = {.max_running = samples + 1}});
  if (!engine.ok()) return 1;
  const context::KvBudget third{
      .budget = (16 + tokens) / 3, .window = (16 + tokens) / 6, .keep_ratio = 0.43};
  std::vector<Variant> variants = {
      {"none", {}},
      {"attention_matching",
       {.trigger = third, .method = context::Method::kAttentionMatching, .reference_tokens = 48}},
      {"evict",
       {.trigger = third,
        .method = context::Method::kEvict,
        .parameters = {.chooser = context::Chooser::kAttention},
        .reference_tokens = 48}},
      {"markovian", {.trigger = third, .method = context::Method::kMarkovian}}};
  for (int round = 0; round < rounds; ++round) {
    for (Variant& v : variants) {
      auto waiter = std::make_shared<Waiter>(samples);
      const absl::Time begin = SystemClock().Now();
      for (int longer = 0; longer < spread; ++longer) {
        GenerationRequest r{.request_id = absl::StrFormat("%s-%d", v.name, longer),
                            .prompt = std::vector<int32_t>(16 + longer, 65),
                            .n = samples / spread,
                            .context = v.policy};
        r.sampling.max_tokens = tokens;
        r.sampling.ignore_eos = true;
        const absl::Status accepted = (*engine)->Submit(r, waiter);
        if (!accepted.ok()) {
          std::fprintf(stderr, "%s\n", accepted.ToString().c_str());
          return 1;
        }
      }
      waiter->done.WaitForNotification();
      v.tokens_per_second.push_back(samples * tokens /
                                    absl::ToDoubleSeconds(SystemClock().Now() - begin));
      v.events = static_cast<double>(waiter->events) / samples;
    }
  }
  const auto median = [](std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
  };
  const double base = median(variants[0].tokens_per_second);
  for (const Variant& v : variants) {
    std::printf(
        "{\"method\": \"%s\", \"samples\": %d, \"tokens\": %d, \"spread\": %d, \"events\": %.1f, "
        "\"tokens_per_s\": %.0f, \"ratio\": %.3f}\n",
        v.name, samples, tokens, spread, v.events, median(v.tokens_per_second),
        median(v.tokens_per_second) / base);
  }
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::inference::Main(argc, argv);
}
