// Optimiser steps of the trainer in this process, measured by turns (turns.h).
// Usage: train_bench MODEL_FOLDER THREADS float32|bfloat16; jobs: tests/bench/README.md.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <malloc.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string_view>

#include "common/base/clock.h"
#include "common/model/huge_pages.h"
#include "services/trainer/engine/adamw.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/replay_pass.h"
#include "tests/bench/turns.h"
#include "tests/bench/workload.h"

namespace palimpsest::trainer {
namespace {

using bench::Json;

constexpr int kFirstResponse = 1000;  // streams below are prompts

// -sum w A n, w = 1 / tokens of the batch: the mean over what is learnt.
LossValue PolicyGradient(const PassTokens& pass) {
  LossValue value;
  for (size_t i = 0; i < pass.tokens.size(); ++i) {
    const LossToken& token = *pass.tokens[i].token;
    value.of_logprobs.push_back(-token.weight * token.advantage);
    value.loss += value.of_logprobs.back() * pass.logprobs[i];
  }
  return value;
}

// Of all threads, seconds.
double ProcessorTime() {
  return static_cast<double>(std::clock()) / static_cast<double>(CLOCKS_PER_SEC);
}

// Sequences whose tokens behind the prompt are learnt, every second one with a negative advantage.
std::vector<LossSequence> Learnt(std::span<const attention::ReplaySequence> replays) {
  std::vector<LossSequence> sequences;
  double tokens = 0;
  for (const attention::ReplaySequence& replay : replays) {
    LossSequence& sequence = sequences.emplace_back(LossSequence{.replay = replay});
    const double advantage = sequences.size() % 2 == 1 ? 1 : -0.5;
    for (int32_t p = replay.prompt_tokens; p <= replay.rows; ++p)
      sequence.tokens.push_back({.position = p, .advantage = advantage});
    tokens += static_cast<double>(sequence.tokens.size());
  }
  for (LossSequence& sequence : sequences) {
    for (LossToken& token : sequence.tokens) token.weight = 1 / tokens;
  }
  return sequences;
}

class Bench {
 public:
  explicit Bench(const model::Decoder& decoder)
      : decoder_(decoder), shards_(decoder.Parameters(), Alone()), optimizer_(shards_, {}) {}

  // One step over `prompts` prompts, each with a response of each of `responses` tokens.
  absl::StatusOr<Json> Step(const Json& job) {
    const int turn = job.at("turn"), prompt_tokens = job.at("prompt");
    const std::vector<int> responses = job.at("responses");
    const int vocab = decoder_.config().vocab;
    std::vector<std::vector<int32_t>> tokens;
    for (int prompt = 0; prompt < job.at("prompts").get<int>(); ++prompt) {
      for (const int response : responses) {
        const auto stream = kFirstResponse + static_cast<int>(tokens.size());
        tokens.push_back(bench::PromptOf(turn, prompt, prompt_tokens, vocab));
        const std::vector<int32_t> behind = bench::PromptOf(turn, stream, response, vocab);
        tokens.back().insert(tokens.back().end(), behind.begin(), behind.end());
      }
    }
    std::vector<attention::ReplaySequence> replays;
    for (const std::vector<int32_t>& ids : tokens) {
      replays.push_back({.tokens = ids,
                         .prompt_tokens = prompt_tokens,
                         .rows = static_cast<int32_t>(ids.size()) - 1});
    }
    return Learn(replays, compaction::GradientMode::kFull, job.at("learning_rate"));
  }

  // The same over rollouts of one prompt under kv_budget, detached, or without events when `budget`
  // is 0. The tokens do not depend on the budget.
  absl::StatusOr<Json> Replay(const Json& job) {
    const int budget = job.at("budget");
    const context::ContextPolicy policy =
        budget == 0 ? context::ContextPolicy{}
                    : context::ContextPolicy{.trigger = context::KvBudget{budget, job.at("window"),
                                                                          job.at("keep_ratio")},
                                             .reference_tokens = job.at("reference_tokens")};
    const bench::Rollouts rollouts = bench::MakeRollouts(
        {.prompts = 1,
         .samples = job.at("samples"),
         .prompt_tokens = job.at("prompt"),
         .response_tokens = job.at("response"),
         .ragged = false,
         .vocab = decoder_.config().vocab,
         .seed = job.at("turn")},
        policy, {.layers = decoder_.config().layers, .kv_heads = decoder_.config().kv_heads});
    ASSIGN_OR_RETURN(Json told, Learn(rollouts.sequences, compaction::GradientMode::kDetached,
                                      job.at("learning_rate")));
    told["events"] = rollouts.events_per_rollout;
    return told;
  }

 private:
  absl::StatusOr<Json> Learn(std::span<const attention::ReplaySequence> replays,
                             compaction::GradientMode gradient, double learning_rate) {
    const std::vector<LossSequence> sequences = Learnt(replays);
    std::vector<const LossSequence*> pointers;
    for (const LossSequence& sequence : sequences) pointers.push_back(&sequence);
    malloc_trim(0);
    ResetPeakMemory();
    const int64_t before = PeakMemory();
    const double processor = ProcessorTime();
    const absl::Time start = SystemClock().Now();
    ASSIGN_OR_RETURN(const PassResult pass,
                     RunPass(decoder_,
                             {.gradient = gradient,
                              .scale = 1 / std::sqrt(double{1} * decoder_.config().head_dim)},
                             pointers, PolicyGradient, SystemClock()));
    const absl::Time turn = SystemClock().Now();
    ASSIGN_OR_RETURN(const std::vector<at::Tensor> gradients, shards_.TakeGradients());
    const double norm = std::sqrt(SquaredNorm(gradients));
    optimizer_.Step(learning_rate, norm, gradients);
    const absl::Time end = SystemClock().Now();
    return Json{{"seconds", absl::ToDoubleSeconds(end - start)},
                {"processor", ProcessorTime() - processor},
                {"forward", pass.sums.forward_seconds},
                {"backward", pass.sums.backward_seconds},
                {"optimizer", absl::ToDoubleSeconds(end - turn)},
                {"loss", pass.sums.loss},
                {"grad_norm", norm},
                {"rows", pass.sums.rows},
                {"bytes_before", before},
                {"peak_bytes", PeakMemory()}};
  }

  const model::Decoder& decoder_;
  ParameterShards shards_;
  AdamW optimizer_;
};

int Main(int argc, char** argv) {
  const std::string_view type = argc == 4 ? argv[3] : "";
  const int threads = argc == 4 ? std::atoi(argv[2]) : 0;
  if (threads < 1 || (type != "float32" && type != "bfloat16")) {
    std::fprintf(stderr, "usage: %s MODEL_FOLDER THREADS float32|bfloat16\n", argv[0]);
    return 2;
  }
  at::set_num_threads(threads);
  const auto decoder = model::Decoder::Load(
      argv[1], type == "float32" ? model::DType::kFloat32 : model::DType::kBFloat16);
  if (!decoder.ok()) {
    std::fprintf(stderr, "%s\n", decoder.status().ToString().c_str());
    return 1;
  }
  Bench bench(**decoder);
  bench::ServeJobs({{"step", [&](const Json& job) { return bench.Step(job); }},
                    {"replay", [&](const Json& job) { return bench.Replay(job); }}});
  return 0;
}

}  // namespace
}  // namespace palimpsest::trainer

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::trainer::Main(argc, argv);
}
