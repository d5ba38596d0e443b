#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/base/clock.h"
#include "common/model/huge_pages.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/replay_pass.h"
#include "tests/bench/small_model.h"
#include "tests/bench/workload.h"

// What looking at both views of rollouts costs: a trainer's pass (packing, forward, loss, backward,
// no optimiser) against that of the shadow alone, medians of runs that take turns. One JSON object
// per line. Usage: shadow_bench [repetitions] [prompts of 4 rollouts]
namespace palimpsest::bench {
namespace {

using rl::Distillation;
using rl::View;
using trainer::LossSequence;
using trainer::PassViews;

struct Way {
  const char* name;
  PassViews views;
};
constexpr Way kWays[] = {{"shadow", {}},
                         {"measured", {.compare = true}},
                         {"d1", {.distillation = Distillation::kD1, .coefficient = 0.1}},
                         {"d2", {.distillation = Distillation::kD2, .coefficient = 0.1}},
                         {"d3", {.distillation = Distillation::kD3, .coefficient = 0.1}},
                         {"dense", {.learner = View::kDense}}};

class Bench {
 public:
  Bench(int vocab, int prompts) : decoder_(Model(vocab)) {
    const model::ModelConfig& c = decoder_->config();
    rollouts_ = MakeRollouts({.prompts = prompts,
                              .samples = 4,
                              .prompt_tokens = 24,
                              .response_tokens = 146,
                              .vocab = vocab},
                             {.trigger = context::KvBudget{57, 28, 0.4}, .reference_tokens = 48},
                             {.layers = c.layers, .kv_heads = c.kv_heads});
    for (const attention::ReplaySequence& replay : rollouts_.sequences) {
      LossSequence& sequence = sequences_.emplace_back(LossSequence{.replay = replay});
      for (int32_t p = replay.prompt_tokens + 1; p <= replay.rows; ++p) {
        sequence.tokens.push_back({.position = p, .weight = 1e-3});
      }
      loss_tokens_ += std::ssize(sequence.tokens);
    }
    for (const LossSequence& sequence : sequences_) pointers_.push_back(&sequence);
  }

  void Step(const PassViews& views) const {
    const auto pass = trainer::RunPass(
        *decoder_, {.scale = 1 / std::sqrt(double{1} * decoder_->config().head_dim)}, pointers_,
        trainer::Likelihood, SystemClock(), views);
    if (!pass.ok()) {
      std::fprintf(stderr, "%s\n", pass.status().ToString().c_str());
      std::exit(1);
    }
    for (auto [name, tensor] : decoder_->Parameters()) tensor.mutable_grad() = at::Tensor();
  }

  void Print(int repetitions) const {
    constexpr size_t kCount = std::size(kWays);
    std::vector<double> seconds[kCount];
    int64_t peak[kCount] = {};
    for (int r = 0; r <= repetitions; ++r) {  // the first one warms up
      for (size_t i = 0; i < kCount; ++i) {
        trainer::ResetPeakMemory();
        const absl::Time start = SystemClock().Now();
        Step(kWays[i].views);
        if (r > 0) seconds[i].push_back(absl::ToDoubleSeconds(SystemClock().Now() - start));
        peak[i] = std::max(peak[i], trainer::PeakMemory());
      }
    }
    double first = 0;
    for (size_t i = 0; i < kCount; ++i) {
      std::sort(seconds[i].begin(), seconds[i].end());
      const double median = seconds[i][seconds[i].size() / 2];
      if (i == 0) first = median;
      std::printf(
          "{\"bench\": \"views\", \"way\": \"%s\", \"vocab\": %d, \"loss_tokens\": %d, "
          "\"events_per_rollout\": %.2f, \"step_s\": %.3f, \"ratio\": %.2f, \"peak_mb\": %.0f, "
          "\"all_logits_mb\": %.0f}\n",
          kWays[i].name, decoder_->config().vocab, static_cast<int>(loss_tokens_),
          rollouts_.events_per_rollout, median, median / first,
          static_cast<double>(peak[i]) / 1048576,
          static_cast<double>(loss_tokens_) * decoder_->config().vocab * 4 / 1048576);
    }
    std::fflush(stdout);
  }

 private:
  static std::unique_ptr<model::Decoder> Model(int vocab) {
    auto decoder = model::Decoder::Random(SmallModel(4, vocab), 1, model::DType::kFloat32);
    for (auto [name, tensor] : decoder->Parameters()) tensor.requires_grad_(true);
    return decoder;
  }

  std::unique_ptr<model::Decoder> decoder_;
  Rollouts rollouts_;
  std::vector<LossSequence> sequences_;
  std::vector<const LossSequence*> pointers_;
  int64_t loss_tokens_ = 0;
};

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 5;
  const int prompts = argc > 2 ? std::max(1, std::atoi(argv[2])) : 4;
  std::printf("{\"bench\": \"setup\", \"threads\": %d, \"repetitions\": %d}\n",
              at::get_num_threads(), repetitions);
  for (const int vocab : {257, 32768}) palimpsest::bench::Bench(vocab, prompts).Print(repetitions);
  return 0;
}
