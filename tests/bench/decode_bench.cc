// Decoding under compaction against decoding without, in one run, interleaved: tokens per second of
// the engine. Usage: decode_bench [samples] [tokens] [rounds] [spread]
// Then, by another engine after it, the same without compaction and with attention matching under
// batch_invariant.
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
#include "common/base/status.h"
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
  bool invariant;  // by the engine whose bits do not hang on the company
  context::ContextPolicy policy;
  std::vector<double> tokens_per_second = {};
  double events = 0;
};

std::vector<Variant> Variants(int tokens) {
  const context::KvBudget third{
      .budget = (16 + tokens) / 3, .window = (16 + tokens) / 6, .keep_ratio = 0.43};
  const context::ContextPolicy matching{
      .trigger = third, .method = context::Method::kAttentionMatching, .reference_tokens = 48};
  return {{"none", false, {}},
          {"attention_matching", false, matching},
          {"evict",
           false,
           {.trigger = third,
            .method = context::Method::kEvict,
            .parameters = {.chooser = context::Chooser::kAttention},
            .reference_tokens = 48}},
          {"markovian", false, {.trigger = third, .method = context::Method::kMarkovian}},
          {"none", true, {}},
          {"attention_matching", true, matching}};
}

// All samples of a variant, from the first submission to the last end.
absl::Status Run(Engine& engine, Variant& v, int samples, int tokens, int spread) {
  auto waiter = std::make_shared<Waiter>(samples);
  const absl::Time begin = SystemClock().Now();
  for (int longer = 0; longer < spread; ++longer) {
    GenerationRequest r{.request_id = absl::StrFormat("%s-%d", v.name, longer),
                        .prompt = std::vector<int32_t>(16 + longer, 65),
                        .n = samples / spread,
                        .context = v.policy};
    r.sampling.max_tokens = tokens;
    r.sampling.ignore_eos = true;
    RETURN_IF_ERROR(engine.Submit(r, waiter));
  }
  waiter->done.WaitForNotification();
  v.tokens_per_second.push_back(samples * tokens /
                                absl::ToDoubleSeconds(SystemClock().Now() - begin));
  v.events = static_cast<double>(waiter->events) / samples;
  return absl::OkStatus();
}

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

absl::Status RunAll(const std::string& folder, int samples, int tokens, int rounds, int spread) {
  std::filesystem::create_directories(folder);
  RETURN_IF_ERROR(
      model::Decoder::Random(bench::SmallModel(), 1, model::DType::kFloat32)->Save(folder));
  std::vector<Variant> variants = Variants(tokens);
  // One engine after the other: threads of two would not spin between their regions.
  for (const bool invariant : {false, true}) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                     MakeEngine({.model_folder = folder,
                                 .version = PolicyVersion(1),
                                 .batch_invariant = invariant,
                                 .limits = {.max_running = samples + 1}}));
    for (int round = 0; round < rounds; ++round) {
      for (Variant& v : variants) {
        if (v.invariant == invariant) RETURN_IF_ERROR(Run(*engine, v, samples, tokens, spread));
      }
    }
  }
  const double base = Median(variants[0].tokens_per_second);
  for (const Variant& v : variants) {
    std::printf(
        "{\"method\": \"%s\", \"batch_invariant\": %s, \"samples\": %d, \"tokens\": %d, "
        "\"spread\": %d, \"events\": %.1f, \"tokens_per_s\": %.0f, \"ratio\": %.3f}\n",
        v.name, v.invariant ? "true" : "false", samples, tokens, spread, v.events,
        Median(v.tokens_per_second), Median(v.tokens_per_second) / base);
  }
  return absl::OkStatus();
}

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
  const absl::Status status = RunAll(folder, samples, tokens, rounds, spread);
  std::filesystem::remove_all(folder);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace palimpsest::inference

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::inference::Main(argc, argv);
}
