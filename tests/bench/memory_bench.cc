#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/base/clock.h"
#include "common/model/huge_pages.h"
#include "common/model/logprob.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/replay_pass.h"
#include "tests/bench/small_model.h"
#include "tests/bench/workload.h"

// What a trainer's pass (packing, forward, loss, backward, no optimiser) adds to the memory of the
// process at its peak, with events and without, activations kept or made again, in fp32 and bf16.
// Medians of runs that take turns. Then a pass with a vocabulary of 151,936 and several chunks of
// loss rows beside one of 1,024. One JSON object per line. Usage: memory_bench [repetitions]
// [prompts of 4 rollouts] [layers]
namespace palimpsest::bench {
namespace {

using compaction::GradientMode;
using model::Activations;
using model::DType;
using trainer::LossSequence;

constexpr int kVocab = 257;

struct Way {
  const char* name;
  DType dtype;
  Activations activations;
};
constexpr Way kWays[] = {{"float32, kept", DType::kFloat32, Activations::kKept},
                         {"float32, recomputed", DType::kFloat32, Activations::kRecomputed},
                         {"bfloat16, kept", DType::kBFloat16, Activations::kKept},
                         {"bfloat16, recomputed", DType::kBFloat16, Activations::kRecomputed}};

struct Density {
  const char* name;
  bool events;
  GradientMode gradient;
};
constexpr Density kDensities[] = {{"none", false, GradientMode::kFull},
                                  {"detached", true, GradientMode::kDetached},
                                  {"straight_through", true, GradientMode::kStraightThrough},
                                  {"full", true, GradientMode::kFull}};

std::unique_ptr<model::Decoder> Model(const Way& way, int layers, int vocab = kVocab) {
  auto decoder = model::Decoder::Random(SmallModel(layers, vocab), 1, way.dtype);
  decoder->SetActivations(way.activations);
  for (auto [name, tensor] : decoder->Parameters()) {
    tensor.requires_grad_(true);
    if (way.dtype == DType::kBFloat16) tensor.set_grad_dtype(at::kFloat);
  }
  return decoder;
}

// Rollouts of one prompt length, to be learnt from their prompt on.
struct Batch {
  Rollouts rollouts;
  std::vector<LossSequence> sequences;
  std::vector<const LossSequence*> pointers;

  Batch(int prompts, int layers, bool events, int vocab = kVocab)
      : rollouts(
            MakeRollouts({.prompts = prompts,
                          .samples = 4,
                          .prompt_tokens = 24,
                          .response_tokens = 146,
                          .vocab = vocab},
                         events ? context::ContextPolicy{.trigger = context::KvBudget{57, 28, 0.4},
                                                         .reference_tokens = 48}
                                : context::ContextPolicy{},
                         {.layers = layers, .kv_heads = 2})) {
    for (const attention::ReplaySequence& replay : rollouts.sequences) {
      LossSequence& sequence = sequences.emplace_back(LossSequence{.replay = replay});
      for (int32_t p = replay.prompt_tokens + 1; p <= replay.rows; ++p) {
        sequence.tokens.push_back({.position = p, .weight = 1e-3});
      }
    }
    for (const LossSequence& sequence : sequences) pointers.push_back(&sequence);
  }
  size_t loss_rows() const {
    size_t rows = 0;
    for (const LossSequence& sequence : sequences) rows += sequence.tokens.size();
    return rows;
  }
};

struct Cost {
  std::vector<double> seconds;
  int64_t peak = 0;  // bytes above what stood before

  double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
};

void Step(const model::Decoder& decoder, const Batch& batch, GradientMode gradient, Cost& cost) {
  malloc_trim(0);
  trainer::ResetPeakMemory();
  const int64_t before = trainer::PeakMemory();
  const absl::Time start = SystemClock().Now();
  const auto pass = trainer::RunPass(decoder, {.gradient = gradient, .scale = 1 / std::sqrt(32.0)},
                                     batch.pointers, trainer::Likelihood, SystemClock());
  if (!pass.ok()) {
    std::fprintf(stderr, "%s\n", pass.status().ToString().c_str());
    std::exit(1);
  }
  cost.seconds.push_back(absl::ToDoubleSeconds(SystemClock().Now() - start));
  cost.peak = std::max(cost.peak, trainer::PeakMemory() - before);
  for (auto [name, tensor] : decoder.Parameters()) tensor.mutable_grad() = at::Tensor();
}

void Print(int repetitions, int prompts, int layers) {
  const Batch plain(prompts, layers, false), compacted(prompts, layers, true);
  for (const Way& way : kWays) {
    const auto decoder = Model(way, layers);
    Cost costs[std::size(kDensities)];
    for (int r = 0; r <= repetitions; ++r) {
      for (size_t i = 0; i < std::size(kDensities); ++i) {
        const Density& d = kDensities[i];
        Cost warm;
        Step(*decoder, d.events ? compacted : plain, d.gradient, r == 0 ? warm : costs[i]);
      }
    }
    for (size_t i = 0; i < std::size(kDensities); ++i) {
      std::printf(
          "{\"bench\": \"memory\", \"way\": \"%s\", \"layers\": %d, \"rollouts\": %d, "
          "\"events\": \"%s\", \"events_per_rollout\": %.2f, \"step_s\": %.3f, \"peak_mb\": %.1f, "
          "\"peak_of_none\": %.2f}\n",
          way.name, layers, prompts * 4, kDensities[i].name,
          kDensities[i].events ? compacted.rollouts.events_per_rollout : 0.0, costs[i].median(),
          static_cast<double>(costs[i].peak) / 1048576,
          static_cast<double>(costs[i].peak) / static_cast<double>(costs[0].peak));
    }
    std::fflush(stdout);
  }
}

// Whether logits of all loss rows, [T, V], are ever there at once. What grows with the vocabulary
// otherwise: a chunk of logits and the gradients of embedding and head.
void PrintVocabularies(int repetitions) {
  constexpr int kPrompts = 8, kLayers = 2;
  const auto megabytes = [](double numbers) { return numbers * sizeof(float) / 1048576; };
  double narrow = 0;  // peak, MB
  for (const int vocab : {1024, 151936}) {
    const auto decoder = Model(kWays[0], kLayers, vocab);
    const Batch batch(kPrompts, kLayers, false, vocab);
    Cost cost, warm;
    for (int r = 0; r <= repetitions; ++r)
      Step(*decoder, batch, GradientMode::kFull, r == 0 ? warm : cost);
    const double peak = static_cast<double>(cost.peak) / 1048576;
    if (vocab == 1024) narrow = peak;
    const auto rows = static_cast<double>(batch.loss_rows());
    const double all = megabytes(rows * vocab);
    std::printf(
        "{\"bench\": \"memory_vocabulary\", \"vocab\": %d, \"layers\": %d, \"loss_rows\": %.0f, "
        "\"step_s\": %.3f, \"peak_mb\": %.1f, \"more_than_narrow_mb\": %.1f, "
        "\"chunk_of_logits_mb\": %.1f, \"gradients_of_head_and_embedding_mb\": %.1f, "
        "\"all_logits_mb\": %.1f, \"peak_of_all_logits\": %.2f}\n",
        vocab, kLayers, rows, cost.median(), peak, peak - narrow,
        megabytes(double{model::kLogProbChunkRows} * vocab),
        megabytes(2.0 * vocab * decoder->config().hidden), all, peak / all);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 3;
  const int prompts = argc > 2 ? std::max(1, std::atoi(argv[2])) : 4;
  const int layers = argc > 3 ? std::max(1, std::atoi(argv[3])) : 8;
  std::printf("{\"bench\": \"setup\", \"threads\": %d, \"repetitions\": %d}\n",
              at::get_num_threads(), repetitions);
  palimpsest::bench::Print(repetitions, prompts, layers);
  palimpsest::bench::PrintVocabularies(std::min(repetitions, 2));
  return 0;
}
