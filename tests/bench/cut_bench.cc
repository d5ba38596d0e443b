#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "common/base/clock.h"
#include "common/model/huge_pages.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/prompt_pass_torch.h"
#include "tests/bench/small_model.h"
#include "tests/bench/workload.h"

// A group that is cut into pieces: its prompt once, against a prompt in each piece and against the
// whole group in one pass (forward, loss, backward, no optimiser). Medians of runs that take turns;
// one JSON object per line. Usage: cut_bench [repetitions]
namespace palimpsest::bench {
namespace {

using trainer::LossSequence;

struct Group {
  int n, p, r, pieces;  // samples, tokens of the prompt and of each response
};

class Bench {
 public:
  explicit Bench(const Group& group)
      : group_(group),
        decoder_(model::Decoder::Random(SmallModel(), 1, model::DType::kFloat32)),
        rollouts_(MakeRollouts({.prompts = 1,
                                .samples = group.n,
                                .prompt_tokens = group.p,
                                .response_tokens = group.r,
                                .ragged = false,
                                .vocab = decoder_->config().vocab},
                               {}, {decoder_->config().layers, decoder_->config().kv_heads})) {
    for (auto [name, tensor] : decoder_->Parameters()) tensor.requires_grad_(true);
    for (const attention::ReplaySequence& replay : rollouts_.sequences) {
      LossSequence& sequence = sequences_.emplace_back(LossSequence{.replay = replay});
      for (int32_t p = replay.prompt_tokens; p <= replay.rows; ++p)
        sequence.tokens.push_back({.position = p, .weight = 1e-3});
    }
    for (const LossSequence& sequence : sequences_) pointers_.push_back(&sequence);
  }

  void Print(int repetitions) {
    const std::function<void()> ways[] = {[&] { Pieces(1); }, [&] { PromptOnce(); },
                                          [&] { Pieces(group_.pieces); }};
    std::vector<double> seconds[3];
    for (int r = 0; r <= repetitions; ++r) {  // the first one warms up
      for (size_t i = 0; i < 3; ++i) {
        const absl::Time start = SystemClock().Now();
        ways[i]();
        if (r > 0) seconds[i].push_back(absl::ToDoubleSeconds(SystemClock().Now() - start));
        for (auto [name, tensor] : decoder_->Parameters()) tensor.mutable_grad() = at::Tensor();
      }
    }
    for (auto& s : seconds) std::sort(s.begin(), s.end());
    const auto median = [&](size_t i) { return seconds[i][seconds[i].size() / 2]; };
    std::printf(
        "{\"bench\": \"cut\", \"n\": %d, \"p\": %d, \"r\": %d, \"pieces\": %d, \"whole_s\": %.4f, "
        "\"prompt_once_s\": %.4f, \"prompt_in_each_s\": %.4f, \"once_of_whole\": %.2f, "
        "\"each_of_once\": %.2f}\n",
        group_.n, group_.p, group_.r, group_.pieces, median(0), median(1), median(2),
        median(1) / median(0), median(2) / median(1));
    std::fflush(stdout);
  }

 private:
  absl::Status Run(size_t first, size_t count, const trainer::PromptPass* prompt) {
    return trainer::RunPass(*decoder_, options_, std::span(pointers_).subspan(first, count),
                            trainer::Likelihood, SystemClock(), {}, prompt)
        .status();
  }

  absl::Status RunPieces(int pieces, const trainer::PromptPass* prompt) {
    const size_t count = pointers_.size() / static_cast<size_t>(pieces);
    for (size_t first = 0; first < pointers_.size(); first += count)
      RETURN_IF_ERROR(Run(first, count, prompt));
    return absl::OkStatus();
  }

  // Each with the prompt.
  void Pieces(int pieces) { Demand(RunPieces(pieces, nullptr)); }

  void PromptOnce() {
    trainer::PassSums sums;
    Demand(trainer::LearnBehindPrompt(
        *decoder_, options_, sequences_.front(), SystemClock(), sums,
        [&](const trainer::PromptPass& prompt) { return RunPieces(group_.pieces, &prompt); }));
  }

  static void Demand(const absl::Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }

  const Group group_;
  std::unique_ptr<model::Decoder> decoder_;
  const Rollouts rollouts_;
  const attention::ReplayOptions options_ = {
      .scale = 1 / std::sqrt(double{1} * decoder_->config().head_dim)};
  std::vector<LossSequence> sequences_;
  std::vector<const LossSequence*> pointers_;
};

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  using namespace palimpsest::bench;
  const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 5;
  std::printf("{\"bench\": \"setup\", \"threads\": %d, \"repetitions\": %d}\n",
              at::get_num_threads(), repetitions);
  for (const Group& group : {Group{16, 256, 128, 4}, Group{8, 512, 128, 4}, Group{8, 1024, 128, 8}})
    Bench(group).Print(repetitions);
  return 0;
}
