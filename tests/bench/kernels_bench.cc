// The engine's kernels by themselves, one thread, each by turns with another way to the same
// numbers: decode attention of bf16 by AVX-512 BF16 / by eight floats, products of bf16 rows / the
// library's, Cholesky and its solves / LAPACK's. What is read is larger than the caches where an
// engine's would be. Usage: kernels_bench [rounds]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <vector>

#include "common/attention/paged_kernel.h"
#include "common/base/clock.h"
#include "common/compaction/cholesky.h"
#include "common/model/huge_pages.h"
#include "common/model/row_kernels.h"

namespace palimpsest {
namespace {

using Work = std::function<void()>;

double Seconds(const Work& work) {
  const absl::Time begin = SystemClock().Now();
  work();
  return absl::ToDoubleSeconds(SystemClock().Now() - begin);
}

struct Pair {
  double ours, other;  // median seconds
};
Pair ByTurns(int rounds, const Work& ours, const Work& other) {
  std::vector<double> a, b;
  ours(), other();
  for (int i = 0; i < rounds; ++i) a.push_back(Seconds(ours)), b.push_back(Seconds(other));
  const auto median = [](std::vector<double>& x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
  };
  return {median(a), median(b)};
}

at::Tensor Bf16(at::IntArrayRef shape) { return at::randn(shape).to(at::kBFloat16); }
const BFloat16* Of(const at::Tensor& x) { return static_cast<const BFloat16*>(x.data_ptr()); }

// A step's rows over 28 layers of 8 KV heads of 128, two query heads each.
void DecodeAttention(int rows, int slots, int rounds) {
  constexpr int kLayers = 28, kHeads = 8, kGroup = 2, kWidth = 128;
  const int pages = (slots + attention::kSlotsPerPage - 1) / attention::kSlotsPerPage;
  std::vector<at::Tensor> keys, values;
  const std::array<int64_t, 3> shape = {int64_t{rows} * pages * attention::kSlotsPerPage, kHeads,
                                        kWidth};
  for (int l = 0; l < kLayers; ++l) keys.push_back(Bf16(shape)), values.push_back(Bf16(shape));
  const at::Tensor bias = at::zeros({shape[0], kHeads});
  const at::Tensor q = Bf16({rows, kHeads * kGroup, kWidth});
  std::vector<int32_t> table(static_cast<size_t>(rows) * pages);
  std::iota(table.begin(), table.end(), 0);
  const int parts = attention::PartsOf(slots);
  std::vector<float> scratch(attention::ScratchOf(parts, kGroup, kWidth));
  const auto step = [&](auto attend) {
    for (int l = 0; l < kLayers; ++l) {
      const attention::PagedCache<BFloat16> cache{Of(keys[l]), Of(values[l]),
                                                  bias.const_data_ptr<float>(), kHeads, kWidth};
      for (int i = 0; i < rows * kHeads; ++i) {
        const attention::PagedKeys seen{table.data() + i / kHeads * pages, slots};
        for (int p = 0; p < parts; ++p)
          attend(cache, seen, i % kHeads, Of(q) + int64_t{i} * kGroup * kWidth, kGroup, 0.088f, p,
                 scratch.data() + attention::ScratchOf(p, kGroup, kWidth));
      }
    }
  };
  const Pair took = ByTurns(
      rounds, [&] { step(attention::AttendPart<BFloat16>); },
      [&] { step(attention::AttendPartByLanes<BFloat16>); });
  const double bytes = 4.0 * kLayers * rows * slots * kHeads * kWidth;
  std::printf(
      "{\"kernel\": \"decode attention\", \"rows\": %d, \"slots\": %d, \"s\": %.5f, "
      "\"by_lanes_s\": "
      "%.5f, \"speedup\": %.2f, \"gb_per_s\": %.1f}\n",
      rows, slots, took.ours, took.other, took.other / took.ours, bytes / took.ours / 1e9);
}

// y [rows, n] = x w' for each of as many w as are 64 MB.
void Products(int64_t n, int64_t k, int64_t rows, int rounds) {
  const int64_t copies = std::max<int64_t>(1, (int64_t{64} << 20) / (2 * n * k));
  std::vector<at::Tensor> weights;
  for (int64_t c = 0; c < copies; ++c) weights.push_back(Bf16({n, k}));
  const at::Tensor x = Bf16({rows, k});
  std::vector<float> packed, y(static_cast<size_t>(rows * n));
  const Pair took = ByTurns(
      rounds,
      [&] {
        for (const at::Tensor& w : weights) {
          model::Product<BFloat16> product{Of(w), Of(x), rows, k};
          model::Prepare(product, packed);
          model::MultiplyRows(product, 0, n, y.data(), n);
        }
      },
      [&] {
        for (const at::Tensor& w : weights) at::linear(x, w);
      });
  const double weight = static_cast<double>(n * k * copies);
  std::printf(
      "{\"kernel\": \"product\", \"n\": %ld, \"k\": %ld, \"rows\": %ld, \"s\": %.5f, "
      "\"library_s\": "
      "%.5f, \"speedup\": %.2f, \"gb_per_s\": %.1f, \"gflop_per_s\": %.0f}\n",
      n, k, rows, took.ours, took.other, took.other / took.ours, 2 * weight / took.ours / 1e9,
      2 * weight * static_cast<double>(rows) / took.ours / 1e9);
}

void Systems(int unknowns, int columns, int rounds) {
  const at::Tensor root = at::randn({unknowns, unknowns}, at::kDouble);
  const at::Tensor a = root.matmul(root.t()) + unknowns * at::eye(unknowns, at::kDouble);
  const at::Tensor b = at::randn({unknowns, columns}, at::kDouble);
  const auto values = [](const at::Tensor& x) {
    return std::vector<double>(x.const_data_ptr<double>(), x.const_data_ptr<double>() + x.numel());
  };
  std::vector<double> factor = values(a), x;
  const auto work = [&](bool solve) {
    return ByTurns(
        rounds,
        [&] {
          if (solve) return compaction::CholeskySolve(factor, unknowns, x = values(b), columns);
          factor = values(a);
          compaction::CholeskyInPlace(factor, unknowns, 1e-300);
        },
        [&, l = at::linalg_cholesky(a)] {
          solve ? at::cholesky_solve(b, l) : at::linalg_cholesky(a);
        });
  };
  const Pair factored = work(false), solved = work(true);
  std::printf(
      "{\"kernel\": \"cholesky\", \"unknowns\": %d, \"columns\": %d, \"factor_us\": %.1f, "
      "\"lapack_factor_us\": %.1f, \"solve_us\": %.1f, \"lapack_solve_us\": %.1f}\n",
      unknowns, columns, 1e6 * factored.ours, 1e6 * factored.other, 1e6 * solved.ours,
      1e6 * solved.other);
}

int Main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  if (rounds < 1) {
    std::fprintf(stderr, "usage: kernels_bench [rounds], > 0\n");
    return 2;
  }
  at::set_num_threads(1);
  c10::NoGradGuard no_grad;
  for (const int rows : {1, 4, 16}) DecodeAttention(rows, 176, rounds);
  for (const int rows : {1, 4, 16, 512}) {
    Products(4096, 1024, rows, rounds);
    Products(1024, 2048, rows, rounds);
    Products(1024, 3072, rows, rounds);
  }
  for (const int unknowns : {32, 64, 128, 256}) Systems(unknowns, 128, rounds);
  return 0;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  palimpsest::model::UseHugePages();
  return palimpsest::Main(argc, argv);
}
