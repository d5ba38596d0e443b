// One event of one sequence of Qwen3-0.6B's shape by stage: 28 layers of 8 KV heads, two query
// heads each, random keys, values and queries, 1024 slots -> 256, fitted to 128 reference
// positions. What the engine adds (gathering from pages, writing them) is not in it; `compare.py`
// has the whole. Usage: event_bench [rounds] [threads]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "common/base/clock.h"
#include "common/compaction/box_solver.h"
#include "common/compaction/cholesky.h"
#include "common/compaction/matching_torch.h"
#include "common/model/huge_pages.h"

namespace palimpsest::compaction {
namespace {

constexpr int kLayers = 28, kHeads = 8, kSlots = 1024, kKept = 256, kQueries = 2 * 128,
              kWidth = 128;

WindowBatch RandomWindow() {
  const auto rows = [](int64_t count) {
    return at::randn({kHeads, count, kWidth}).to(at::kBFloat16);
  };
  return {.keys = rows(kSlots),
          .values = rows(kSlots),
          .bias = at::zeros({kHeads, kSlots}),
          .slot_mask = at::ones({kHeads, kSlots}, at::kBool),
          .queries = rows(kQueries),
          .query_mask = at::ones({kHeads, kQueries}, at::kBool),
          .holdout_mask = {},
          .scale = 1 / std::sqrt(static_cast<double>(kWidth))};
}

Numerics DefaultNumerics(const context::Parameters& p) {
  const auto column = [](double x) { return at::full({kHeads}, x, at::kDouble); };
  return {.mu = column(p.mu),
          .lambda = column(p.lambda),
          .lower = column(std::exp(p.log_lower)),
          .upper = column(std::exp(p.log_upper))};
}

using Stages = std::map<std::string, double>;  // seconds

void Add(Stages& stages, const char* stage, const std::function<void()>& work) {
  const absl::Time begin = SystemClock().Now();
  work();
  stages[stage] += absl::ToDoubleSeconds(SystemClock().Now() - begin);
}

// Matrix b of [B, ..] fp64.
std::span<double> Span(const at::Tensor& x, int64_t b) {
  return {x.data_ptr<double>() + b * x.stride(0), static_cast<size_t>(x.stride(0))};
}

void EachHead(const std::function<void(int64_t)>& solve) {
  at::parallel_for(0, kHeads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) solve(b);
  });
}

// The two solves of a layer by themselves, on the systems that MatchWindow forms.
void SolveAlone(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                const Numerics& numerics, Stages& stages) {
  const at::Tensor a =
      local.a.gather(2, kept.index.unsqueeze(1).expand({-1, kQueries, -1})).to(at::kDouble);
  at::Tensor h, c, unit;
  Add(stages, "of match: gram matrix", [&] { h = at::bmm(a.transpose(1, 2), a); });
  unit = h.diagonal(0, 1, 2).sum(1) / kKept;
  const at::Tensor mu = numerics.mu * unit;
  h = h + mu.view({-1, 1, 1}) * at::eye(kKept, h.options());
  c = a.sum(1) + mu.unsqueeze(1);
  Add(stages, "of match: weights in their box", [&] {
    EachHead([&](int64_t b) {
      SolveBox({.h = Span(h, b),
                .c = Span(c, b),
                .t = kKept,
                .lower = numerics.lower.data_ptr<double>()[b],
                .upper = numerics.upper.data_ptr<double>()[b],
                .tolerance = unit.data_ptr<double>()[b] * 1e-9});
    });
  });
  const at::Tensor right = window.values.to(at::kDouble).narrow(1, 0, kKept).contiguous();
  Add(stages, "of match: values", [&] {
    EachHead([&](int64_t b) {
      SolveInPlace(Span(h, b), kKept, Span(right, b), static_cast<int>(right.size(2)));
    });
  });
}

int Main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5, threads = argc > 2 ? std::atoi(argv[2]) : 2;
  if (rounds < 1 || threads < 1) {
    std::fprintf(stderr, "usage: event_bench [rounds] [threads], both > 0\n");
    return 2;
  }
  at::set_num_threads(threads);
  c10::NoGradGuard no_grad;
  const context::Parameters parameters;
  const Numerics numerics = DefaultNumerics(parameters);
  std::map<std::string, std::vector<double>> seconds;
  for (int round = 0; round < rounds; ++round) {
    Stages stages;
    for (int layer = 0; layer < kLayers; ++layer) {
      WindowBatch window = RandomWindow();
      LocalSoftmax local;
      Kept kept;
      Add(stages, "score", [&] { local = ScoreWindow(window); });
      Add(stages, "choose", [&] {
        kept =
            ChooseByAttention(local, window, parameters.chooser, std::vector<int>(kHeads, kKept));
      });
      Add(stages, "match and measure", [&] { MatchWindow(local, window, kept, numerics); });
      window.measured = false;
      Add(stages, "match", [&] { MatchWindow(local, window, kept, numerics); });
      SolveAlone(local, window, kept, numerics, stages);
    }
    for (const auto& [stage, took] : stages) seconds[stage].push_back(took);
  }
  for (auto& [stage, took] : seconds) {
    std::sort(took.begin(), took.end());
    std::printf(
        "{\"event\": \"%d -> %d slots\", \"threads\": %d, \"stage\": \"%s\", \"seconds\": %.4f}\n",
        kSlots, kKept, threads, stage.c_str(), took[took.size() / 2]);
  }
  return 0;
}

}  // namespace
}  // namespace palimpsest::compaction

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::compaction::Main(argc, argv);
}
