#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "common/compaction/choose.h"
#include "tests/unit/common/compaction/window_testing.h"

namespace palimpsest::compaction {
namespace {

using testing::Matrix;
using testing::Row;
using testing::SlowFit;
using testing::SlowProblem;
using testing::Windows;

Fit Match(const Windows& x) {
  return MatchWindow(ScoreWindow(x.batch), x.batch, x.kept, x.numerics);
}

// What a reader of the slots sees: attention outputs [n][d] and log-mass [n] of the queries over
// them.
struct Seen {
  at::Tensor output, log_mass;
};
Seen Attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
            const at::Tensor& bias, double scale) {
  const at::Tensor s = scale * at::mm(queries, keys.t()) + bias;
  return {.output = at::mm(at::softmax(s, 1), values), .log_mass = at::logsumexp(s, 1)};
}

double MaxAbs(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

struct Worst {
  double bias = 0, values = 0, errors = 0;
};
// Against the reference, over the real slots; values relative to their size.
Worst Compare(const Windows& x, const Fit& fit) {
  Worst worst;
  for (size_t b = 0; b < x.problems.size(); ++b) {
    const SlowProblem& p = x.problems[b];
    const SlowFit slow = testing::SlowMatch(p);
    const int64_t t = static_cast<int64_t>(p.kept.size()), row = static_cast<int64_t>(b);
    const at::Tensor bias = fit.bias[row].slice(0, 0, t), values = fit.values[row].slice(0, 0, t);
    const at::Tensor expected = testing::FromRows(slow.values);
    worst.bias = std::max(worst.bias, MaxAbs(bias, at::tensor(slow.bias, at::kDouble)));
    worst.values = std::max(worst.values, MaxAbs(values, expected) /
                                              std::max(1.0, expected.abs().max().item<double>()));
    for (const auto& [got, want] : {std::pair{fit.mass_error, slow.mass_error},
                                    {fit.output_error, slow.output_error},
                                    {fit.holdout_mass_error, slow.held_mass_error},
                                    {fit.holdout_output_error, slow.held_output_error}})
      worst.errors = std::max(worst.errors, std::abs(got[row].item<double>() - want));
    EXPECT_LE(fit.kkt_residual[row].item<double>(), 1e-8);
  }
  return worst;
}

std::vector<SlowProblem> RandomProblems(uint64_t seed) {
  RandomStream random(seed);
  std::vector<SlowProblem> problems;
  for (int b = 0; b < 5; ++b) {
    const int w = static_cast<int>(random.Between(1, 24)),
              t = static_cast<int>(random.Between(1, w));
    problems.push_back(testing::RandomProblem(random, w, static_cast<int>(random.Between(1, 30)), t,
                                              6, 0.5 + 2 * random.Uniform(), true));
    SlowProblem& p = problems.back();
    p.mu = std::pow(10, -2 * random.Uniform());
    p.lambda = std::pow(10, -2 * random.Uniform());
    if (b % 2) p.lower = std::exp(-0.3), p.upper = std::exp(0.3);
  }
  return problems;
}

TEST(MatchWindowTest, EqualsTheSlowReferenceOverRandomPaddedBatches) {
  Worst worst;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Windows x = testing::Pack(RandomProblems(seed));
    const Worst one = Compare(x, Match(x));
    worst = {std::max(worst.bias, one.bias), std::max(worst.values, one.values),
             std::max(worst.errors, one.errors)};
  }
  std::printf("fp64: bias %.1e, values %.1e, errors %.1e\n", worst.bias, worst.values,
              worst.errors);
  EXPECT_LT(worst.bias, 1e-9);
  EXPECT_LT(worst.values, 1e-9);
  EXPECT_LT(worst.errors, 1e-9);
}

TEST(MeasureEvictionTest, EqualsTheSlowReferenceWhosePriorsHoldEverything) {
  double worst = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::vector<SlowProblem> problems = RandomProblems(seed);
    for (SlowProblem& p : problems) p.mu = p.lambda = 1e14;
    const Windows x = testing::Pack(problems);
    const FitErrors errors = MeasureEviction(ScoreWindow(x.batch), x.batch, x.kept);
    for (size_t b = 0; b < problems.size(); ++b) {
      const SlowFit slow = testing::SlowMatch(problems[b]);
      for (const auto& [got, want] : {std::pair{errors.mass_error, slow.mass_error},
                                      {errors.output_error, slow.output_error},
                                      {errors.holdout_mass_error, slow.held_mass_error},
                                      {errors.holdout_output_error, slow.held_output_error}})
        worst = std::max(worst, std::abs(got[static_cast<int64_t>(b)].item<double>() - want));
    }
  }
  EXPECT_LT(worst, 1e-9);
}

TEST(MeasureEvictionTest, WithoutKeptSlotsAllIsMissingAndWithAllOfThemNothing) {
  RandomStream random(3);
  Windows x = testing::Pack({testing::RandomProblem(random, 9, 12, 9, 6, 1)});
  const FitErrors all = MeasureEviction(ScoreWindow(x.batch), x.batch, x.kept);
  EXPECT_LT(all.mass_error.item<double>(), 1e-12);
  EXPECT_LT(all.output_error.item<double>(), 1e-12);
  x.kept.counts = {0};
  const FitErrors none = MeasureEviction(ScoreWindow(x.batch), x.batch, x.kept);
  EXPECT_EQ(none.mass_error.item<double>(), 1);
  EXPECT_NEAR(none.output_error.item<double>(), 1, 1e-12);
}

// fp32 scores err by about 1e-6; the solves may magnify that by 1 / mu = 100.
TEST(MatchWindowTest, EqualsTheSlowReferenceInFp32ToATenThousandth) {
  Worst worst;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Windows x = testing::Pack(RandomProblems(seed));
    const Fit fit = Match(testing::Cast(x, at::kFloat));
    EXPECT_EQ(fit.bias.scalar_type(), at::kFloat);
    EXPECT_EQ(fit.values.scalar_type(), at::kFloat);
    const Worst one = Compare(x, fit);
    worst = {std::max(worst.bias, one.bias), std::max(worst.values, one.values),
             std::max(worst.errors, one.errors)};
  }
  std::printf("fp32: bias %.1e, values %.1e, errors %.1e\n", worst.bias, worst.values,
              worst.errors);
  EXPECT_LT(worst.bias, 1e-4);
  EXPECT_LT(worst.values, 1e-4);
  EXPECT_LT(worst.errors, 1e-4);
}

TEST(MatchWindowTest, ValuesComeInTheDtypeOfTheCacheAndBiasesInFp32) {
  const Windows x = testing::Pack(RandomProblems(1));
  const Fit fit = Match(testing::Cast(x, at::kBFloat16));
  EXPECT_EQ(fit.values.scalar_type(), at::kBFloat16);
  EXPECT_EQ(fit.bias.scalar_type(), at::kFloat);
}

struct Hard {
  const char* name;
  SlowProblem problem;
};
std::vector<Hard> HardProblems() {
  RandomStream random(77);
  const auto make = [&](int w, int n, int t, double peak = 1) {
    return testing::RandomProblem(random, w, n, t, 8, peak);
  };
  std::vector<Hard> hard = {{"fewer queries than kept", make(20, 3, 12)},
                            {"one query", make(20, 1, 12)},
                            {"one slot", make(1, 5, 1)},
                            {"one query and one slot", make(1, 1, 1)},
                            {"one kept of many", make(30, 10, 1)},
                            {"huge scores", make(20, 12, 6, 50)},
                            {"more slots than queries, all kept", make(40, 4, 40)},
                            {"equal queries", make(20, 10, 8)},
                            {"duplicate keys", make(20, 10, 8)},
                            {"all-zero values", make(20, 10, 8)},
                            {"no query listened to", make(20, 10, 8)},
                            {"kept slots without mass", make(20, 10, 4)}};
  for (Row& q : hard[7].problem.queries) q = hard[7].problem.queries[0];
  for (Row& k : hard[8].problem.keys) k = hard[8].problem.keys[0];
  for (Row& v : hard[9].problem.values) v = Row(8, 0.0);
  hard[10].problem.fitted.assign(10, 0);
  for (int j : hard[11].problem.kept) hard[11].problem.bias[j] = -2000;
  return hard;
}

TEST(MatchWindowTest, IsFiniteWhateverTheWindow) {
  for (const Hard& hard : HardProblems()) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      const Windows x = testing::Pack({hard.problem});
      const Fit fit = Match(dtype == at::kDouble ? x : testing::Cast(x, dtype));
      for (const at::Tensor& y : {fit.bias, fit.values, fit.mass_error, fit.output_error,
                                  fit.kkt_residual, fit.holdout_mass_error})
        EXPECT_TRUE(at::isfinite(y).all().item<bool>()) << hard.name;
    }
  }
}

TEST(MatchWindowTest, HardWindowsEqualTheSlowReferenceWhereItIsDefined) {
  for (const Hard& hard : HardProblems()) {
    if (std::string_view(hard.name).starts_with("no query") ||
        std::string_view(hard.name).starts_with("kept slots without"))
      continue;  // tr(G) = 0: the prior alone decides, below
    const Windows x = testing::Pack({hard.problem});
    const Worst worst = Compare(x, Match(x));
    EXPECT_LT(worst.bias, 1e-8) << hard.name;
    EXPECT_LT(worst.values, 1e-8) << hard.name;
  }
}

TEST(MatchWindowTest, WithoutAnyMassItFallsBackToEviction) {
  for (const Hard& hard : HardProblems()) {
    if (!std::string_view(hard.name).starts_with("no query")) continue;
    const Windows x = testing::Pack({hard.problem});
    const Fit fit = Match(x);
    const at::Tensor v_kept = x.batch.values[0].index_select(0, x.kept.index[0]);
    EXPECT_LT(MaxAbs(fit.bias[0], x.batch.bias[0].index_select(0, x.kept.index[0])), 1e-12);
    EXPECT_LT(MaxAbs(fit.values[0], v_kept), 1e-12);
  }
}

TEST(MatchWindowTest, StrongPriorsAreEviction) {
  RandomStream random(3);
  SlowProblem p = testing::RandomProblem(random, 20, 30, 7, 6, 1);
  p.mu = p.lambda = 1e12;
  const Windows x = testing::Pack({p});
  const Fit fit = Match(x);
  EXPECT_LT(MaxAbs(fit.bias[0], x.batch.bias[0].index_select(0, x.kept.index[0])), 1e-9);
  EXPECT_LT(MaxAbs(fit.values[0], x.batch.values[0].index_select(0, x.kept.index[0])), 1e-9);
}

TEST(MatchWindowTest, ASecondRoundThatDropsNothingChangesNothing) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    RandomStream random(4);
    const SlowProblem first = testing::RandomProblem(random, 40, 60, 12, 8, 1.5);
    const Windows x = testing::Cast(testing::Pack({first}), dtype);
    const Fit one = Match(x);
    const at::Tensor keys = x.batch.keys[0].index_select(0, x.kept.index[0]);

    SlowProblem other = testing::RandomProblem(random, 12, 25, 12, 8, 1.5);
    Windows y = testing::Cast(testing::Pack({other}), dtype);
    y.batch.keys = keys.unsqueeze(0);
    y.batch.values = one.values;
    y.batch.bias = one.bias;
    const Fit two = Match(y);
    const at::Tensor probes = y.batch.queries[0];
    const Seen before = Attend(probes, keys, one.values[0], one.bias[0], x.batch.scale);
    const Seen after = Attend(probes, keys, two.values[0], two.bias[0], x.batch.scale);
    const double limit = dtype == at::kDouble ? 1e-9 : 1e-4;
    EXPECT_LT(MaxAbs(before.output, after.output), limit);
    EXPECT_LT(MaxAbs(before.log_mass, after.log_mass), limit);
  }
}

// Attention over [window, later keys] as the queries would see it, against [block, later keys].
TEST(MatchWindowNegativeControlTest, MassAppliedTwiceMissesOverTheWindowAndLaterKeys) {
  RandomStream random(6);
  SlowProblem p = testing::RandomProblem(random, 16, 60, 16, 8, 1);  // nothing is dropped
  const SlowProblem rest = testing::RandomProblem(random, 16, 1, 1, 8, 1);
  const at::Tensor later_k = testing::FromRows(rest.keys), later_v = testing::FromRows(rest.values);
  const at::Tensor q = testing::FromRows(p.queries);
  const at::Tensor window_k = testing::FromRows(p.keys);
  const auto all = [&](const at::Tensor& v, const at::Tensor& b) {
    return Attend(q, at::cat({window_k, later_k}), at::cat({v, later_v}),
                  at::cat({b, at::zeros({16}, at::kDouble)}), p.scale)
        .output;
  };
  const at::Tensor truth = all(testing::FromRows(p.values), at::tensor(p.bias, at::kDouble));
  const auto error = [&](const at::Tensor& v, const at::Tensor& b) {
    return (all(v, b) - truth).norm().item<double>() / truth.norm().item<double>();
  };
  const Windows x = testing::Pack({p});
  const Fit fit = Match(x);
  const double ours = error(fit.values[0], fit.bias[0]);
  const at::Tensor log_mass = at::logsumexp(p.scale * at::mm(q, later_k.t()), 1);
  p.rest_log_mass.assign(log_mass.data_ptr<double>(), log_mass.data_ptr<double>() + q.size(0));
  const SlowFit twice = testing::SlowMatch(p);
  const double theirs = error(testing::FromRows(twice.values), at::tensor(twice.bias, at::kDouble));
  std::printf("nothing dropped: error %.1e; mass twice: %.2f\n", ours, theirs);
  EXPECT_LT(ours, 1e-9);
  EXPECT_GT(theirs, 0.1);
  EXPECT_GT(MaxAbs(fit.values[0], testing::FromRows(twice.values)), 0.1);
}

TEST(ChooseByAttentionTest, RanksByTheChoosersMeasureOverFittedQueries) {
  RandomStream random(8);
  std::vector<SlowProblem> problems;
  for (int b = 0; b < 6; ++b)
    problems.push_back(testing::RandomProblem(random, 10 + b, 20 - b, 4, 6, 2, true));
  const Windows x = testing::Pack(problems);
  const LocalSoftmax local = ScoreWindow(x.batch);
  for (const context::Chooser chooser : {context::Chooser::kRms, context::Chooser::kAttention,
                                         context::Chooser::kMean, context::Chooser::kMax}) {
    const Kept kept = ChooseByAttention(local, x.batch, chooser, {4, 1, 3, 4, 2, 4});
    for (size_t b = 0; b < problems.size(); ++b) {
      const Matrix a = testing::SlowSoftmax(testing::SlowScores(problems[b]));
      Row importance(a[0].size(), 0.0);
      for (size_t i = 0; i < a.size(); ++i) {
        for (size_t j = 0; j < a[i].size() && problems[b].fitted[i]; ++j) {
          if (chooser == context::Chooser::kMean) importance[j] += a[i][j];
          if (chooser == context::Chooser::kMax) importance[j] = std::max(importance[j], a[i][j]);
          if (chooser == context::Chooser::kRms || chooser == context::Chooser::kAttention)
            importance[j] += a[i][j] * a[i][j];
        }
      }
      const auto expected =
          LargestByImportance(std::span<const double>(importance), kept.counts[b]);
      for (int j = 0; j < kept.counts[b]; ++j)
        EXPECT_EQ(kept.index[static_cast<int64_t>(b)][j].item<int64_t>(), expected[j]);
    }
  }
}

TEST(RandomReferencesTest, AreKeyedByMeaningAndStandardNormal) {
  const at::Tensor x = RandomReferences(5, 1, 2, 400, 16);
  EXPECT_TRUE(at::equal(x.slice(0, 0, 10), RandomReferences(5, 1, 2, 10, 16)));
  EXPECT_FALSE(at::equal(x, RandomReferences(5, 1, 3, 400, 16)));
  EXPECT_FALSE(at::equal(x, RandomReferences(5, 0, 2, 400, 16)));
  EXPECT_FALSE(at::equal(x, RandomReferences(6, 1, 2, 400, 16)));
  EXPECT_NEAR(x.mean().item<double>(), 0, 0.05);
  EXPECT_NEAR(x.square().mean().item<double>(), 1, 0.05);
}

}  // namespace
}  // namespace palimpsest::compaction
