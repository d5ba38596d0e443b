#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

#include "common/attention/replay.h"
#include "common/model/decoder.h"
#include "common/model/logprob.h"
#include "tests/bench/small_model.h"
#include "tests/bench/workload.h"

// Ratios of training steps, each the median of interleaved runs in one process. One JSON object per
// line. Usage: replay_bench [events|shared|all] [repetitions] [prompts of 4 rollouts]
namespace palimpsest::bench {
namespace {

using attention::PackedBatch;
using attention::ReplayContext;
using compaction::GradientMode;

constexpr model::ModelConfig kModel = SmallModel();
constexpr context::Shape kShape{.layers = kModel.layers, .kv_heads = kModel.kv_heads};

class Bench {
 public:
  Bench() : decoder_(model::Decoder::Random(kModel, 1, model::DType::kFloat32)) {
    for (const auto& [name, tensor] : decoder_->Parameters()) {
      parameters_.push_back(tensor);
      parameters_.back().requires_grad_(true);
    }
  }

  // Packing, forward and backward of one batch.
  void Step(const Rollouts& rollouts, GradientMode mode, bool share) const {
    const auto batch = PackedBatch::Create(rollouts.sequences, kShape, share);
    if (!batch.ok()) {
      std::fprintf(stderr, "%s\n", batch.status().ToString().c_str());
      std::exit(1);
    }
    ReplayContext replay(*batch,
                         {.gradient = mode, .scale = 1 / std::sqrt(double{kModel.head_dim})});
    const at::Tensor hidden = decoder_->Hidden(at::tensor(batch->ids(), at::kLong),
                                               at::tensor(batch->positions(), at::kLong), replay);
    std::vector<int64_t> rows, targets;
    for (size_t i = 0; i < rollouts.sequences.size(); ++i) {
      const auto& s = rollouts.sequences[i];
      for (int32_t p = s.prompt_tokens; p < s.rows; ++p) {
        rows.push_back(batch->RowOf(static_cast<int>(i), p));
        targets.push_back(s.tokens[p + 1]);
      }
    }
    const at::Tensor logprobs =
        model::TokenLogProbs(*decoder_, hidden.index_select(0, at::tensor(rows, at::kLong)),
                             at::tensor(targets, at::kLong), 1.0);
    torch::autograd::grad({logprobs.mean()}, parameters_);
  }

 private:
  std::unique_ptr<model::Decoder> decoder_;
  std::vector<at::Tensor> parameters_;
};

double Seconds(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Medians of runs that take turns, so that a change of the machine's load hits all alike.
std::vector<double> Medians(const std::vector<std::function<void()>>& runs, int repetitions) {
  std::vector<std::vector<double>> seconds(runs.size());
  for (const auto& run : runs) run();
  for (int r = 0; r < repetitions; ++r) {
    for (size_t i = 0; i < runs.size(); ++i) seconds[i].push_back(Seconds(runs[i]));
  }
  std::vector<double> medians;
  for (auto& s : seconds) {
    std::sort(s.begin(), s.end());
    medians.push_back(s[s.size() / 2]);
  }
  return medians;
}

context::ContextPolicy Budget(int32_t budget, int32_t window, double keep, int32_t reference) {
  return {.trigger = context::KvBudget{.budget = budget, .window = window, .keep_ratio = keep},
          .reference_tokens = reference};
}

void EventRows(const Bench& bench, int repetitions, int prompts) {
  const Workload work{.prompts = prompts,
                      .samples = 4,
                      .prompt_tokens = 24,
                      .response_tokens = 146,
                      .vocab = kModel.vocab};
  const Rollouts plain = MakeRollouts(work, {}, kShape);
  struct Density {
    const char* name;
    context::ContextPolicy policy;
  };
  const Density densities[] = {
      {"budget 56 window 28 keep 12 ref 48", Budget(56, 28, 12.5 / 28, 48)},
      {"budget 1/2", Budget(85, 42, 0.4, 48)},
      {"budget 1/3", Budget(57, 28, 0.4, 48)},
      {"budget 1/4", Budget(48, 20, 0.25, 48)}};
  for (const Density& density : densities) {
    const Rollouts events = MakeRollouts(work, density.policy, kShape);
    const auto step = [&](const Rollouts& rollouts, GradientMode mode) {
      return [&bench, &rollouts, mode] { bench.Step(rollouts, mode, true); };
    };
    const auto m =
        Medians({step(plain, GradientMode::kFull), step(events, GradientMode::kDetached),
                 step(events, GradientMode::kStraightThrough), step(events, GradientMode::kFull)},
                repetitions);
    std::printf(
        "{\"bench\": \"events\", \"shape\": \"%s\", \"rollouts\": %d, \"tokens\": 170, "
        "\"events_per_rollout\": %.2f, \"plain_s\": %.3f, \"detached_s\": %.3f, "
        "\"straight_through_s\": %.3f, \"full_s\": %.3f, \"ratio_detached\": %.2f, "
        "\"ratio_straight_through\": %.2f, \"ratio_full\": %.2f}\n",
        density.name, work.prompts * work.samples, events.events_per_rollout, m[0], m[1], m[2],
        m[3], m[1] / m[0], m[2] / m[0], m[3] / m[0]);
    std::fflush(stdout);
  }
}

// Multiply-adds of one forward pass, the ideal that no kernel and no padding enters.
double IdealCost(double rows, double pairs, double loss_rows) {
  const double attention_width = kModel.heads * kModel.head_dim;
  const double kv_width = kModel.kv_heads * kModel.head_dim;
  const double linear = kModel.hidden * (2 * attention_width + 2 * kv_width) +
                        3.0 * kModel.hidden * kModel.intermediate;
  return kModel.layers * (rows * linear + pairs * 2 * attention_width) +
         loss_rows * kModel.hidden * kModel.vocab;
}

void SharedRows(const Bench& bench, int repetitions) {
  struct Shape {
    int n, p, r;
  };
  for (const auto [n, p, r] : {Shape{8, 64, 64}, Shape{8, 256, 64}, Shape{16, 256, 128},
                               Shape{8, 512, 128}, Shape{8, 64, 256}}) {
    const Workload work{.prompts = 1,
                        .samples = n,
                        .prompt_tokens = p,
                        .response_tokens = r,
                        .ragged = false,
                        .vocab = kModel.vocab};
    const Rollouts rollouts = MakeRollouts(work, {}, kShape);
    const auto m = Medians({[&] { bench.Step(rollouts, GradientMode::kFull, true); },
                            [&] { bench.Step(rollouts, GradientMode::kFull, false); }},
                           repetitions);
    const double own = r * (r + 1) / 2.0 + double{1} * r * p, prompt = p * (p + 1) / 2.0;
    const double ideal = IdealCost(n * (p + r), n * (prompt + own), n * r) /
                         IdealCost(p + n * r, prompt + n * own, n * r);
    std::printf(
        "{\"bench\": \"shared_prompt\", \"n\": %d, \"p\": %d, \"r\": %d, \"shared_s\": %.3f, "
        "\"replicated_s\": %.3f, \"ratio\": %.2f, \"ideal\": %.2f, \"of_ideal\": %.2f}\n",
        n, p, r, m[0], m[1], m[1] / m[0], ideal, m[1] / m[0] / ideal);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  using namespace palimpsest::bench;
  const std::string_view which = argc > 1 ? argv[1] : "all";
  const int repetitions = argc > 2 ? std::max(1, std::atoi(argv[2])) : 5;
  const int prompts = argc > 3 ? std::max(1, std::atoi(argv[3])) : 16;
  std::printf("{\"bench\": \"setup\", \"threads\": %d, \"repetitions\": %d}\n",
              at::get_num_threads(), repetitions);
  const Bench bench;
  if (which == "events" || which == "all") EventRows(bench, repetitions, prompts);
  if (which == "shared" || which == "all") SharedRows(bench, repetitions);
  return 0;
}
