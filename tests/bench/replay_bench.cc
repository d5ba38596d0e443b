#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/attention/replay.h"
#include "common/collective/collective.h"
#include "common/model/decoder.h"
#include "common/model/huge_pages.h"
#include "common/model/logprob.h"
#include "services/trainer/engine/adamw.h"
#include "services/trainer/engine/parameter_shards.h"
#include "tests/bench/cost_model.h"
#include "tests/bench/small_model.h"
#include "tests/bench/workload.h"

// Ratios of training steps, each the median of interleaved runs in one process, with what the
// arithmetic allows beside it. One JSON object per line.
// Usage: replay_bench [events|shared|layer|all] [repetitions] [prompts of 4 rollouts]
namespace palimpsest::bench {
namespace {

using attention::PackedBatch;
using attention::ReplayContext;
using compaction::GradientMode;
using model::DType;

constexpr model::ModelConfig kModel = SmallModel();
// A layer as wide as attention is in research on shared prompts, without a head of any weight.
constexpr model::ModelConfig kLayer = {.architecture = model::Architecture::kLlama,
                                       .layers = 1,
                                       .hidden = 256,
                                       .intermediate = 768,
                                       .heads = 4,
                                       .kv_heads = 4,
                                       .head_dim = 64,
                                       .vocab = 257,
                                       .max_position = 4096};

context::Shape ShapeOf(const model::ModelConfig& c) {
  return {.layers = c.layers, .kv_heads = c.kv_heads};
}

// What a step ends with: gradients, or weights that the trainer's optimiser has moved.
enum class Ends { kGradients, kWeights };

struct Optimizer {
  trainer::ParameterShards shards;
  trainer::AdamW adam;
  explicit Optimizer(const model::Decoder& decoder)
      : shards(decoder.Parameters(), Alone()), adam(shards, {}) {}
};

class Bench {
 public:
  Bench(const model::ModelConfig& config, DType dtype, Ends ends = Ends::kGradients)
      : config_(config), decoder_(model::Decoder::Random(config, 1, dtype)) {
    for (const auto& [name, tensor] : decoder_->Parameters()) {
      parameters_.push_back(tensor);
      parameters_.back().requires_grad_(true);
    }
    if (ends == Ends::kWeights) optimizer_.emplace(*decoder_);
  }

  // Packing, forward and backward of one batch, and what the step ends with; `head`: up to the
  // log-probabilities of what was sampled, else of the layers alone.
  void Step(const Rollouts& rollouts, GradientMode mode, bool share, bool head = true) {
    const auto batch = PackedBatch::Create(rollouts.sequences, ShapeOf(config_), share);
    if (!batch.ok()) {
      std::fprintf(stderr, "%s\n", batch.status().ToString().c_str());
      std::exit(1);
    }
    ReplayContext replay(
        *batch, {.gradient = mode, .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim))});
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
    const at::Tensor ends = hidden.index_select(0, at::tensor(rows, at::kLong));
    const at::Tensor loss =
        head ? model::TokenLogProbs(*decoder_, ends, at::tensor(targets, at::kLong), 1.0).mean()
             : ends.to(at::kFloat).square().mean();
    if (!optimizer_) {
      torch::autograd::grad({loss}, parameters_, {}, std::nullopt, /*create_graph=*/false,
                            /*allow_unused=*/true);
      return;
    }
    loss.backward();
    gradients_ = *optimizer_->shards.TakeGradients();  // alone: nobody to wait for
    Optimize();
  }

  // Clipping and AdamW, with the gradients of the last step.
  void Optimize() {
    optimizer_->adam.Step(1e-6, std::sqrt(trainer::SquaredNorm(gradients_)), gradients_);
  }

 private:
  model::ModelConfig config_;
  std::unique_ptr<model::Decoder> decoder_;
  std::vector<at::Tensor> parameters_;
  std::optional<Optimizer> optimizer_;
  std::vector<at::Tensor> gradients_;
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

struct Density {
  int32_t response_tokens;
  context::KvBudget budget;
  int32_t reference;
};

void EventRow(Bench& bench, const char* dtype, const Density& density, int repetitions,
              int prompts) {
  const Workload work{.prompts = prompts,
                      .samples = 4,
                      .prompt_tokens = 24,
                      .response_tokens = density.response_tokens,
                      .vocab = kModel.vocab};
  const context::Shape shape = ShapeOf(kModel);
  const Rollouts plain = MakeRollouts(work, {}, shape),
                 events = MakeRollouts(
                     work, {.trigger = density.budget, .reference_tokens = density.reference},
                     shape);
  const auto step = [&](const Rollouts& rollouts, GradientMode mode) {
    return [&bench, &rollouts, mode] { bench.Step(rollouts, mode, true); };
  };
  const auto m =
      Medians({step(plain, GradientMode::kFull), step(events, GradientMode::kDetached),
               step(events, GradientMode::kStraightThrough), step(events, GradientMode::kFull)},
              repetitions);
  const EventCost cost = CostOf(events, density.budget, kModel);
  double tokens = 0, count = 0;
  for (const auto& s : events.sequences) tokens += s.rows, count += std::ssize(s.events);
  std::printf(
      "{\"bench\": \"events\", \"dtype\": \"%s\", \"budget\": %d, \"window\": %d, "
      "\"keep_ratio\": %.2f, \"references\": %d, \"rollouts\": %d, \"tokens\": %.0f, "
      "\"events_per_1000_tokens\": %.1f, \"plain_s\": %.3f, \"detached_s\": %.3f, "
      "\"straight_through_s\": %.3f, \"full_s\": %.3f, \"ratio_detached\": %.2f, "
      "\"ratio_straight_through\": %.2f, \"ratio_full\": %.2f, \"limit_detached\": %.2f, "
      "\"limit_full\": %.2f}\n",
      dtype, density.budget.budget, density.budget.window, density.budget.keep_ratio,
      density.reference, prompts * 4, tokens / (prompts * 4), 1000 * count / tokens, m[0], m[1],
      m[2], m[3], m[1] / m[0], m[2] / m[0], m[3] / m[0], cost.detached, cost.full);
  std::fflush(stdout);
}

void EventRows(int repetitions, int prompts) {
  const Density densities[] = {{488, {.budget = 256, .window = 128, .keep_ratio = 0.25}, 128},
                               {488, {.budget = 128, .window = 64, .keep_ratio = 0.25}, 64},
                               {146, {.budget = 85, .window = 42, .keep_ratio = 0.4}, 48},
                               {146, {.budget = 56, .window = 28, .keep_ratio = 0.43}, 48}};
  for (const auto& [name, dtype] :
       {std::pair{"float32", DType::kFloat32}, {"bfloat16", DType::kBFloat16}}) {
    Bench bench(kModel, dtype);
    for (const Density& density : densities) {
      const int fewer = density.response_tokens > 200 ? 3 : 1;  // about as many tokens
      EventRow(bench, name, density, repetitions, std::max(1, prompts / fewer));
    }
  }
}

struct GroupShape {
  int n, p, r;  // samples, tokens of the prompt and of each response
};

// One group behind one prompt / the same with a prompt each. Whole steps, or one layer's gradients.
void SharedRow(Bench& bench, const model::ModelConfig& model, Ends ends, const GroupShape& shape,
               int repetitions) {
  const auto [n, p, r] = shape;
  const Rollouts rollouts = MakeRollouts({.prompts = 1,
                                          .samples = n,
                                          .prompt_tokens = p,
                                          .response_tokens = r,
                                          .ragged = false,
                                          .vocab = model.vocab},
                                         {}, ShapeOf(model));
  const bool whole = ends == Ends::kWeights;
  std::vector<std::function<void()>> runs = {
      [&] { bench.Step(rollouts, GradientMode::kFull, true, whole); },
      [&] { bench.Step(rollouts, GradientMode::kFull, false, whole); }};
  if (whole) runs.emplace_back([&] { bench.Optimize(); });
  const auto m = Medians(runs, repetitions);
  const double own = r * (r + 1) / 2.0 + double{1} * r * p, prompt = p * (p + 1) / 2.0;
  const auto cost = [&](double rows, double pairs) {
    return whole ? TrainCost(model, rows, pairs, n * r) : StepCost(model, rows, pairs, 0);
  };
  const double ideal = cost(n * (p + r), n * (prompt + own)) / cost(p + n * r, prompt + n * own);
  std::printf("{\"bench\": \"%s\", \"n\": %d, \"p\": %d, \"r\": %d, \"shared_s\": %.4f, ",
              whole ? "shared_prompt" : "shared_layer", n, p, r, m[0]);
  if (whole) std::printf("\"optimizer_s\": %.4f, ", m[2]);
  std::printf("\"replicated_s\": %.4f, \"ratio\": %.2f, \"ideal\": %.2f, \"of_ideal\": %.2f}\n",
              m[1], m[1] / m[0], ideal, m[1] / m[0] / ideal);
  std::fflush(stdout);
}

void SharedRows(int repetitions) {
  Bench bench(kModel, DType::kFloat32, Ends::kWeights);
  for (const GroupShape& shape :
       {GroupShape{8, 64, 64}, GroupShape{8, 256, 64}, GroupShape{16, 256, 128},
        GroupShape{8, 512, 128}, GroupShape{8, 64, 256}})
    SharedRow(bench, kModel, Ends::kWeights, shape, repetitions);
}

void LayerRows(int repetitions) {
  Bench bench(kLayer, DType::kFloat32);
  for (const GroupShape& shape :
       {GroupShape{4, 256, 64}, GroupShape{8, 256, 64}, GroupShape{8, 512, 128},
        GroupShape{16, 512, 64}, GroupShape{8, 1024, 128}, GroupShape{8, 256, 256},
        GroupShape{8, 64, 256}})
    SharedRow(bench, kLayer, Ends::kGradients, shape, repetitions);
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  using namespace palimpsest::bench;
  const std::string_view which = argc > 1 ? argv[1] : "all";
  const int repetitions = argc > 2 ? std::max(1, std::atoi(argv[2])) : 5;
  const int prompts = argc > 3 ? std::max(1, std::atoi(argv[3])) : 16;
  if (which != "events" && which != "shared" && which != "layer" && which != "all") {
    std::fprintf(stderr, "replay_bench: '%s' is not events, shared, layer or all\n", argv[1]);
    return 2;
  }
  std::printf("{\"bench\": \"setup\", \"threads\": %d, \"repetitions\": %d}\n",
              at::get_num_threads(), repetitions);
  if (which == "events" || which == "all") EventRows(repetitions, prompts);
  if (which == "shared" || which == "all") SharedRows(repetitions);
  if (which == "layer" || which == "all") LayerRows(repetitions);
  return 0;
}
