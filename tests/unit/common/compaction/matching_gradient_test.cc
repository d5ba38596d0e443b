#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "tests/unit/common/compaction/window_testing.h"

namespace palimpsest::compaction {
namespace {

using testing::SlowProblem;
using testing::Windows;

at::Tensor RandomLike(RandomStream& random, const at::Tensor& x) {
  at::Tensor y = at::empty_like(x);
  for (int64_t i = 0; i < y.numel(); ++i) y.data_ptr<double>()[i] = random.Normal();
  return y;
}

Fit FitOf(const Windows& x) {
  return MatchWindow(ScoreWindow(x.batch), x.batch, x.kept, x.numerics);
}

// A random weighting of what the real slots of the block hold.
struct Weighting {
  at::Tensor bias, values;
};
Weighting WeightingOf(const Windows& x, const Fit& fit) {
  RandomStream random(42);
  Weighting weighting{at::zeros_like(fit.bias), at::zeros_like(fit.values)};
  for (size_t b = 0; b < x.problems.size(); ++b) {
    const auto t = static_cast<int64_t>(x.problems[b].kept.size()), row = static_cast<int64_t>(b);
    for (at::Tensor* w : {&weighting.bias, &weighting.values}) {
      at::Tensor real = (*w)[row].slice(0, 0, t);
      real.copy_(RandomLike(random, at::empty(real.sizes(), at::kDouble)));
    }
  }
  return weighting;
}

double LossOf(const Windows& x) {
  const Fit fit = FitOf(x);
  const Weighting weighting = WeightingOf(x, fit);
  return ((fit.bias * weighting.bias).sum() + (fit.values * weighting.values).sum()).item<double>();
}

std::vector<at::Tensor*> Inputs(Windows& x) {
  return {&x.batch.keys, &x.batch.values, &x.batch.bias, &x.batch.queries};
}

std::vector<at::Tensor> Gradients(const Windows& x) {
  const Weighting weighting = WeightingOf(x, FitOf(x));
  const WindowGradients g =
      MatchGradients(x.batch, x.kept, x.numerics, weighting.bias, weighting.values);
  return {g.keys, g.values, g.bias, g.queries};
}

double FiniteDifferenceError(const Windows& windows, int* at_bound) {
  const std::vector<at::Tensor> exact = Gradients(windows);
  at::set_num_threads(1);  // thousands of tiny solves
  Windows x = windows;
  constexpr double kStep = 1e-5;
  double worst = 0;
  size_t which = 0;
  for (at::Tensor* input : Inputs(x)) {
    *input = input->clone();
    double* data = input->data_ptr<double>();
    at::Tensor numeric = at::zeros_like(*input);
    for (int64_t i = 0; i < input->numel(); ++i) {
      const double keep = data[i];
      data[i] = keep + kStep;
      const double up = LossOf(x);
      data[i] = keep - kStep;
      const double down = LossOf(x);
      data[i] = keep;
      numeric.data_ptr<double>()[i] = (up - down) / (2 * kStep);
    }
    worst = std::max(worst, ((numeric - exact[which]).norm() / numeric.norm()).item<double>());
    ++which;
  }
  const Fit fit = FitOf(x);
  for (size_t b = 0; b < x.problems.size(); ++b) {
    const SlowProblem& p = x.problems[b];
    for (size_t j = 0; j < p.kept.size(); ++j) {
      const double log_w = fit.bias[b][j].item<double>() - p.bias[p.kept[j]];
      *at_bound += log_w <= std::log(p.lower) + 1e-12 || log_w >= std::log(p.upper) - 1e-12;
    }
  }
  return worst;
}

Windows SmallWindows(uint64_t seed, double bound, double mu = 1e-2) {
  RandomStream random(seed);
  std::vector<SlowProblem> problems = {testing::RandomProblem(random, 7, 9, 4, 3, 1.5, true),
                                       testing::RandomProblem(random, 5, 3, 4, 3, 1.5),
                                       testing::RandomProblem(random, 1, 1, 1, 3, 1.5)};
  for (SlowProblem& p : problems) p.mu = mu, p.lower = std::exp(-bound), p.upper = std::exp(bound);
  return testing::Pack(problems);
}

TEST(MatchGradientTest, FullIsTheTotalDerivativeWithFreeWeights) {
  double worst = 0;
  int at_bound = 0;
  for (uint64_t seed = 1; seed <= 2; ++seed)
    worst = std::max(worst, FiniteDifferenceError(SmallWindows(seed, 7, 1.0), &at_bound));
  std::printf("free weights: gradient error %.1e\n", worst);
  EXPECT_LT(worst, 1e-6);
  EXPECT_EQ(at_bound, 0);
}

TEST(MatchGradientTest, FullIsTheTotalDerivativeWithWeightsAtTheirBounds) {
  double worst = 0;
  int at_bound = 0;
  for (uint64_t seed = 1; seed <= 2; ++seed)
    worst = std::max(worst, FiniteDifferenceError(SmallWindows(seed, 0.25), &at_bound));
  std::printf("%d weights at a bound: gradient error %.1e\n", at_bound, worst);
  EXPECT_LT(worst, 1e-6);
  EXPECT_GT(at_bound, 4);
  EXPECT_LT(at_bound, 18);
}

TEST(MatchGradientTest, PaddingGetsNone) {
  const Windows x = SmallWindows(1, 7);
  const auto gradients = Gradients(x);
  const at::Tensor pad = x.batch.slot_mask.logical_not();
  EXPECT_EQ(gradients[0].masked_select(pad.unsqueeze(2)).abs().sum().item<double>(), 0);
  EXPECT_EQ(gradients[1].masked_select(pad.unsqueeze(2)).abs().sum().item<double>(), 0);
  EXPECT_EQ(gradients[2].masked_select(pad).abs().sum().item<double>(), 0);
  const at::Tensor unheard = x.batch.query_mask.logical_not().unsqueeze(2);
  EXPECT_EQ(gradients[3].masked_select(unheard).abs().sum().item<double>(), 0);
}

TEST(MatchGradientTest, DroppedSlotsHaveAGradientInFull) {
  RandomStream random(9);
  const Windows x = testing::Pack({testing::RandomProblem(random, 6, 8, 2, 3, 1)});
  const auto gradients = Gradients(x);
  at::Tensor dropped = at::ones({6}, at::kDouble);
  dropped.index_fill_(0, x.kept.index[0], 0);
  for (int i = 0; i < 2; ++i)
    EXPECT_GT((gradients[i][0] * dropped.unsqueeze(1)).abs().sum().item<double>(), 1e-3);
}

TEST(MatchGradientTest, SinglePrecisionIsTheSameToAThousandth) {
  const Windows x = SmallWindows(3, 7);
  const auto wide = Gradients(x), narrow = Gradients(testing::Cast(x, at::kFloat));
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(narrow[i].scalar_type(), at::kFloat);
    EXPECT_LT(((narrow[i] - wide[i]).norm() / wide[i].norm()).item<double>(), 1e-3);
  }
}

// What would be found if the weights were constants: the test above must see a part that is
// missing.
TEST(MatchGradientTest, WithoutTheMassesPartItWouldBeSeen) {
  const Windows x = SmallWindows(1, 7, 1.0);
  const Weighting weighting = WeightingOf(x, FitOf(x));
  const WindowGradients all =
      MatchGradients(x.batch, x.kept, x.numerics, weighting.bias, weighting.values);
  Numerics held = x.numerics;
  held.lower = at::full_like(held.lower, std::exp(-1e-9));
  held.upper = at::full_like(held.upper, std::exp(1e-9));  // every weight at a bound
  const WindowGradients without =
      MatchGradients(x.batch, x.kept, held, weighting.bias, weighting.values);
  EXPECT_GT(((all.keys - without.keys).norm() / all.keys.norm()).item<double>(), 1e-2);
}

TEST(MatchGradientTest, HardWindowsHaveFiniteGradients) {
  RandomStream random(10);
  SlowProblem equal = testing::RandomProblem(random, 8, 6, 5, 3, 1);
  for (auto& k : equal.keys) k = equal.keys[0];
  for (auto& q : equal.queries) q = equal.queries[0];
  SlowProblem silent = testing::RandomProblem(random, 8, 6, 5, 3, 1);
  silent.fitted.assign(6, 0);
  SlowProblem massless = testing::RandomProblem(random, 8, 6, 3, 3, 1);
  for (int j : massless.kept) massless.bias[j] = -2000;
  const SlowProblem peaked = testing::RandomProblem(random, 8, 6, 5, 3, 50);
  for (const auto& g : Gradients(testing::Pack({equal, silent, massless, peaked})))
    EXPECT_TRUE(at::isfinite(g).all().item<bool>());
}

}  // namespace
}  // namespace palimpsest::compaction
