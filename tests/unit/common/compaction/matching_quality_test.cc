#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "common/compaction/choose.h"
#include "tests/unit/common/compaction/window_testing.h"

namespace palimpsest::compaction {
namespace {

constexpr int kRank = 12, kWidth = 64;

// Rows that wander: an AR(1) path of rank 12, mixed into 64 channels, plus white noise.
testing::Matrix Path(RandomStream& random, const testing::Matrix& mix, int rows, double scale) {
  testing::Row state(kRank);
  for (double& v : state) v = random.Normal();
  testing::Matrix out(rows, testing::Row(kWidth));
  for (testing::Row& row : out) {
    for (double& v : state) v = 0.95 * v + std::sqrt(1 - 0.95 * 0.95) * random.Normal();
    for (int c = 0; c < kWidth; ++c) {
      row[c] = 0.3 * random.Normal();
      for (int r = 0; r < kRank; ++r) row[c] += state[r] * mix[r][c];
      row[c] *= scale;
    }
  }
  return out;
}

struct Row4 {
  double mass = 0, output = 0, evict_mass = 0, evict_output = 0;
};

// By rms, or by rms against the likeness of keys.
Kept Choose(const LocalSoftmax& local, const testing::Windows& x, bool diverse, int t) {
  if (!diverse) return ChooseByAttention(local, x.batch, context::Chooser::kRms, {t});
  const at::Tensor received = Received(local, x.batch, context::Chooser::kDiverse);
  const at::Tensor keys = x.batch.keys[0].to(at::kDouble).contiguous();
  const auto span = [](const at::Tensor& a) {
    return std::span(a.const_data_ptr<double>(), static_cast<size_t>(a.numel()));
  };
  const std::vector<int32_t> kept = DiverseSlots(span(received), span(keys), kWidth, t);
  return {
      .index = at::tensor(std::vector<int64_t>(kept.begin(), kept.end()), at::kLong).view({1, t}),
      .counts = {t}};
}

// Held-out errors of attention_matching and of eviction with the same choice, mean over seeds.
Row4 Measure(double peak, int w, int t, int n, bool diverse = false) {
  constexpr int kHeld = 128, kSeeds = 3;
  Row4 out;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    RandomStream random(MixSeed({seed, Meaning("synthetic head"), static_cast<uint64_t>(n)}));
    testing::Matrix mix(kRank, testing::Row(kWidth));
    for (testing::Row& row : mix) {
      for (double& v : row) v = random.Normal() / std::sqrt(static_cast<double>(kRank)) * 2;
    }
    testing::SlowProblem p = testing::RandomProblem(random, w, n + kHeld, t, kWidth, 1);
    p.keys = Path(random, mix, w, 1);
    p.queries = Path(random, mix, n + kHeld, peak);
    p.bias.assign(w, 0.0);
    for (int i = 0; i < n + kHeld; ++i) {
      // Held out between the fitted ones, so that both see the whole path.
      p.held[i] = (i * kHeld) / (n + kHeld) != ((i + 1) * kHeld) / (n + kHeld);
      p.fitted[i] = !p.held[i];
    }
    testing::Windows x = testing::Pack({p});
    const LocalSoftmax local = ScoreWindow(x.batch);
    const Kept kept = Choose(local, x, diverse, t);
    const Fit fit = MatchWindow(local, x.batch, kept, x.numerics);
    out.mass += fit.holdout_mass_error.item<double>() / kSeeds;
    out.output += fit.holdout_output_error.item<double>() / kSeeds;
    // Strong priors are eviction: the errors are then those of w = 1, V' = V.
    x.numerics.mu.fill_(1e12), x.numerics.lambda.fill_(1e12);
    const Fit evicted = MatchWindow(local, x.batch, kept, x.numerics);
    out.evict_mass += evicted.holdout_mass_error.item<double>() / kSeeds;
    out.evict_output += evicted.holdout_output_error.item<double>() / kSeeds;
  }
  return out;
}

TEST(MatchingQualityTest, HeldOutErrorsAreNotWorseThanEvictionsInTheMean) {
  Row4 mean;
  int cells = 0;
  std::printf(
      "| peak | w, t, n | attention_matching mass/output | eviction |\n|---|---|---|---|\n");
  for (const double peak : {0.25, 0.5, 1.0, 2.0}) {
    for (const int n : {64, 128, 512}) {
      const Row4 r = Measure(peak, 256, 64, n);
      std::printf("| %.2f | 256, 64, %d | %.3f/%.3f | %.3f/%.3f |\n", peak, n, r.mass, r.output,
                  r.evict_mass, r.evict_output);
      mean.mass += r.mass, mean.output += r.output;
      mean.evict_mass += r.evict_mass, mean.evict_output += r.evict_output;
      ++cells;
      EXPECT_LT(r.mass, 1.15 * r.evict_mass);
      EXPECT_LT(r.output, 1.15 * r.evict_output);
    }
  }
  std::printf("| all | mean | %.3f/%.3f | %.3f/%.3f |\n", mean.mass / cells, mean.output / cells,
              mean.evict_mass / cells, mean.evict_output / cells);
  EXPECT_LE(mean.mass, mean.evict_mass);
  EXPECT_LE(mean.output, mean.evict_output);
}

TEST(MatchingQualityTest, DiverseKeysAreFittedBetterAndEvictedNotMuchWorse) {
  Row4 by_rms, diverse;
  const auto add = [](const Row4& r, Row4& to) {
    to.mass += r.mass / 4, to.output += r.output / 4;
    to.evict_mass += r.evict_mass / 4, to.evict_output += r.evict_output / 4;
  };
  for (const double peak : {0.25, 0.5, 1.0, 2.0}) {
    add(Measure(peak, 256, 64, 128), by_rms);
    add(Measure(peak, 256, 64, 128, true), diverse);
  }
  std::printf("| n = 128 | attention_matching mass/output | eviction |\n|---|---|---|\n");
  for (const auto& [name, r] : {std::pair{"rms", by_rms}, std::pair{"diverse", diverse}})
    std::printf("| %s | %.4f/%.4f | %.4f/%.4f |\n", name, r.mass, r.output, r.evict_mass,
                r.evict_output);
  EXPECT_LT(diverse.mass, by_rms.mass);
  EXPECT_LT(diverse.output, by_rms.output);
  EXPECT_LT(diverse.evict_mass, 1.03 * by_rms.evict_mass);
  EXPECT_LT(diverse.evict_output, 1.03 * by_rms.evict_output);
}

}  // namespace
}  // namespace palimpsest::compaction
