#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdio>

#include "common/compaction/solve_functions_torch.h"
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

// A random weighting of what the real slots of the block hold.
at::Tensor Loss(const Windows& x, const Fit& fit) {
  RandomStream random(42);
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (size_t b = 0; b < x.problems.size(); ++b) {
    const int64_t t = static_cast<int64_t>(x.problems[b].kept.size()),
                  row = static_cast<int64_t>(b);
    const at::Tensor bias = fit.bias[row].slice(0, 0, t), values = fit.values[row].slice(0, 0, t);
    loss = loss + (bias * RandomLike(random, bias.detach())).sum();
    loss = loss + (values * RandomLike(random, values.detach())).sum();
  }
  return loss;
}

at::Tensor LossOf(const Windows& x, GradientMode mode) {
  return Loss(x, MatchWindow(ScoreWindow(x.batch), x.batch, x.kept, x.numerics, mode));
}

std::vector<at::Tensor*> Inputs(Windows& x) {
  return {&x.batch.keys, &x.batch.values, &x.batch.bias, &x.batch.queries};
}

std::vector<at::Tensor> Gradients(Windows x, GradientMode mode) {
  std::vector<at::Tensor> leaves;
  for (at::Tensor* input : Inputs(x)) {
    *input = input->detach().clone().requires_grad_(true);
    leaves.push_back(*input);
  }
  const at::Tensor loss = LossOf(x, mode);
  std::vector<at::Tensor> out(leaves.size());
  if (loss.requires_grad()) {
    out = torch::autograd::grad({loss}, leaves, {}, std::nullopt, false, /*allow_unused=*/true);
  }
  for (size_t i = 0; i < out.size(); ++i) {
    if (!out[i].defined()) out[i] = at::zeros_like(leaves[i]);
  }
  return out;
}

double FiniteDifferenceError(const Windows& windows, int* at_bound) {
  const std::vector<at::Tensor> exact = Gradients(windows, GradientMode::kFull);
  at::NoGradGuard no_grad;
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
      const double up = LossOf(x, GradientMode::kFull).item<double>();
      data[i] = keep - kStep;
      const double down = LossOf(x, GradientMode::kFull).item<double>();
      data[i] = keep;
      numeric.data_ptr<double>()[i] = (up - down) / (2 * kStep);
    }
    worst = std::max(worst, ((numeric - exact[which]).norm() / numeric.norm()).item<double>());
    ++which;
  }
  const Fit fit =
      MatchWindow(ScoreWindow(x.batch), x.batch, x.kept, x.numerics, GradientMode::kFull);
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
  const auto gradients = Gradients(x, GradientMode::kFull);
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
  const auto gradients = Gradients(x, GradientMode::kFull);
  at::Tensor dropped = at::ones({6}, at::kDouble);
  dropped.index_fill_(0, x.kept.index[0], 0);
  for (int i = 0; i < 2; ++i)
    EXPECT_GT((gradients[i][0] * dropped.unsqueeze(1)).abs().sum().item<double>(), 1e-3);
}

TEST(MatchGradientTest, StraightThroughGivesTheValuesGradientToTheKeptValuesOnly) {
  const Windows x = SmallWindows(2, 7);
  const auto gradients = Gradients(x, GradientMode::kStraightThrough);
  at::Tensor expected = at::zeros_like(x.batch.values);
  RandomStream random(42);
  for (size_t b = 0; b < x.problems.size(); ++b) {
    const int64_t t = static_cast<int64_t>(x.problems[b].kept.size()),
                  row = static_cast<int64_t>(b);
    RandomLike(random, at::zeros({t}, at::kDouble));
    const at::Tensor d_v = RandomLike(random, at::zeros({t, 3}, at::kDouble));
    expected[row].index_copy_(0, x.kept.index[row].slice(0, 0, t), d_v);
  }
  EXPECT_LT((gradients[1] - expected).abs().max().item<double>(), 1e-15);
  for (int i : {0, 2, 3}) EXPECT_EQ(gradients[i].abs().sum().item<double>(), 0);
}

TEST(MatchGradientTest, DetachedHasNoneAndAllModesAgreeForward) {
  const Windows x = SmallWindows(3, 7);
  for (const at::Tensor& g : Gradients(x, GradientMode::kDetached))
    EXPECT_EQ(g.abs().sum().item<double>(), 0);
  // Full gradients need tensor operations, whose sums have another order.
  const double full = LossOf(x, GradientMode::kFull).item<double>(),
               detached = LossOf(x, GradientMode::kDetached).item<double>();
  EXPECT_EQ(LossOf(x, GradientMode::kStraightThrough).item<double>(), detached);
  EXPECT_NEAR(detached, full, 1e-10 * std::abs(full));
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
  for (const auto& g :
       Gradients(testing::Pack({equal, silent, massless, peaked}), GradientMode::kFull))
    EXPECT_TRUE(at::isfinite(g).all().item<bool>());
}

TEST(SolveSpdTest, ItsGradientIsThatOfAnExplicitSolve) {
  RandomStream random(12);
  const at::Tensor m = RandomLike(random, at::zeros({2, 4, 4}, at::kDouble));
  at::Tensor a = (at::bmm(m, m.transpose(1, 2)) + at::eye(4, at::kDouble)).requires_grad_(true);
  at::Tensor r = RandomLike(random, at::zeros({2, 4, 3}, at::kDouble)).requires_grad_(true);
  const at::Tensor weight = RandomLike(random, r.detach());
  const at::Tensor fast = SolveSpd(a, r, {4, 4}), slow = at::linalg_solve(a, r);
  EXPECT_LT((fast - slow).abs().max().item<double>(), 1e-12);
  const auto got = torch::autograd::grad({(fast * weight).sum()}, {a, r});
  const auto want = torch::autograd::grad({(slow * weight).sum()}, {a, r});
  for (int i = 0; i < 2; ++i) EXPECT_LT((got[i] - want[i]).abs().max().item<double>(), 1e-11);
}

}  // namespace
}  // namespace palimpsest::compaction
