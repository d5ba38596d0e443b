#include "common/compaction/box_solver.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "common/base/random.h"
#include "common/compaction/cholesky.h"
#include "tests/unit/common/compaction/slow_match.h"

namespace palimpsest::compaction {
namespace {

using testing::Matrix;
using testing::Row;

struct System {
  int t;
  Matrix h;
  Row c;
  double unit;  // tr(G)/t
};

// G = A'A of `rows` random rows (rank deficient when rows < t), plus mu * tr(G)/t on the diagonal.
// c = H w for weights around 1 with `spread`, so that the free optimum leaves a small box on both
// sides.
System RandomSystem(RandomStream& random, int t, int rows, double mu, double spread) {
  System s{.t = t, .h = Matrix(t, Row(t, 0.0)), .c = Row(t, 0.0), .unit = 0};
  for (int i = 0; i < rows; ++i) {
    Row a(t);
    for (double& v : a) v = random.Uniform() < 0.3 ? random.Uniform() * 3 : random.Uniform() * 0.2;
    for (int j = 0; j < t; ++j) {
      for (int k = 0; k < t; ++k) s.h[j][k] += a[j] * a[k];
    }
  }
  for (int j = 0; j < t; ++j) s.unit += s.h[j][j] / t;
  for (int j = 0; j < t; ++j) s.h[j][j] += mu * s.unit;
  for (int k = 0; k < t; ++k) {
    const double w = 1 + spread * random.Normal();
    for (int j = 0; j < t; ++j) s.c[j] += s.h[j][k] * w;
  }
  return s;
}

BoxSolution Solve(const System& s, double lower, double upper, double tolerance) {
  Row flat;
  for (const Row& row : s.h) flat.insert(flat.end(), row.begin(), row.end());
  return SolveBox({.h = flat,
                   .c = s.c,
                   .t = s.t,
                   .lower = lower,
                   .upper = upper,
                   .tolerance = tolerance * s.unit});
}

// The optimality conditions, computed anew.
double Residual(const System& s, const Row& w, double lower, double upper) {
  double worst = 0;
  for (int i = 0; i < s.t; ++i) {
    double g = -s.c[i];
    for (int j = 0; j < s.t; ++j) g += s.h[i][j] * w[j];
    EXPECT_GE(w[i], lower);
    EXPECT_LE(w[i], upper);
    if (w[i] <= lower) g = std::min(g, 0.0);
    if (w[i] >= upper) g = std::max(g, 0.0);
    worst = std::max(worst, std::abs(g));
  }
  return worst / s.unit;
}

TEST(BoxSolverTest, FindsWhatCoordinateDescentFinds) {
  RandomStream random(11);
  double worst = 0;
  int at_lower = 0, at_upper = 0;
  for (int round = 0; round < 120; ++round) {
    const int t = static_cast<int>(random.Between(1, round % 10 == 0 ? 64 : 24));
    const int rows = static_cast<int>(random.Between(1, 3 * t));
    const System s = RandomSystem(random, t, rows, round % 2 ? 1e-2 : 1e-1, 1.5);
    const double lower = round % 3 ? 0.7 : std::exp(-7.0), upper = round % 3 ? 1.4 : std::exp(7.0);
    const BoxSolution fast = Solve(s, lower, upper, 1e-13);
    const Row slow = testing::SlowBox(s.h, s.c, lower, upper);
    for (int i = 0; i < t; ++i) {
      worst = std::max(worst, std::abs(fast.w[i] - slow[i]) / std::max(1.0, slow[i]));
      at_lower += fast.w[i] <= lower;
      at_upper += fast.w[i] >= upper;
      EXPECT_EQ(fast.at_bound[i] != 0, slow[i] <= lower || slow[i] >= upper);
    }
  }
  std::printf("worst difference in w %.1e; weights at lower %d, at upper %d\n", worst, at_lower,
              at_upper);
  EXPECT_LT(worst, 1e-8);
  EXPECT_GT(at_lower, 50);
  EXPECT_GT(at_upper, 50);
}

TEST(BoxSolverTest, MeetsTheOptimalityConditionsInFewSolves) {
  RandomStream random(12);
  double worst = 0, solves = 0;
  int most = 0, most_by_default = 0;
  constexpr int kRounds = 600;
  for (int round = 0; round < kRounds; ++round) {
    const int t = static_cast<int>(random.Between(1, 64));
    const int rows = static_cast<int>(random.Between(1, 2 * t));
    const double mu = round % 4 ? std::pow(10.0, -6 * random.Uniform()) : 1e-2;
    const System s = RandomSystem(random, t, rows, mu, round % 2 ? 3.0 : 0.3);
    const bool by_default = round % 4 == 0;
    const double bound = by_default ? 7 : 0.05 + random.Uniform();
    const BoxSolution fast = Solve(s, std::exp(-bound), std::exp(bound), 1e-9);
    worst = std::max(worst, Residual(s, fast.w, std::exp(-bound), std::exp(bound)));
    EXPECT_NEAR(fast.kkt_residual / s.unit, Residual(s, fast.w, std::exp(-bound), std::exp(bound)),
                1e-9);
    solves += fast.solves;
    int& kind = by_default ? most_by_default : most;
    kind = std::max(kind, fast.solves);
  }
  std::printf(
      "worst KKT residual %.1e tr(G)/t; solves: mean %.1f, most %d, by default parameters %d\n",
      worst, solves / kRounds, most, most_by_default);
  EXPECT_LE(worst, 1e-8);
  EXPECT_LE(most_by_default, 20);
}

TEST(BoxSolverTest, ABoxOfOnePointIsThatPoint) {
  RandomStream random(13);
  const System s = RandomSystem(random, 5, 3, 1e-2, 1.0);
  const BoxSolution fast = Solve(s, 1.0, 1.0, 1e-9);
  for (double w : fast.w) EXPECT_EQ(w, 1.0);
  EXPECT_EQ(fast.solves, 0);
}

TEST(CholeskyTest, SolvesWhatEliminationSolves) {
  RandomStream random(14);
  for (const int t : {1, 2, 3, 7, 8, 21, 40, 65}) {
    for (const int columns : {1, 3, 4, 16, 23, 64}) {
      const System s = RandomSystem(random, t, 2 * t, 1e-3, 1.0);
      Row flat, rhs;
      Matrix b(t, Row(columns));
      for (int i = 0; i < t; ++i) {
        flat.insert(flat.end(), s.h[i].begin(), s.h[i].end());
        for (double& v : b[i]) rhs.push_back(v = random.Normal());
      }
      CholeskyInPlace(flat, t, 1e-300);
      CholeskySolve(flat, t, rhs, columns);
      const Matrix x = testing::SlowSolve(s.h, b);
      for (int i = 0; i < t; ++i) {
        for (int k = 0; k < columns; ++k) {
          ASSERT_NEAR(rhs[i * columns + k], x[i][k], 1e-9 * (1 + std::abs(x[i][k])))
              << t << " unknowns, " << columns << " columns";
        }
      }
    }
  }
}

TEST(CholeskyTest, ASingularMatrixGivesFiniteNumbers) {
  Row a(16, 1.0), b = {1, 2, 3, 4};
  CholeskyInPlace(a, 4, 1e-12);
  CholeskySolve(a, 4, b, 1);
  for (double v : b) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace palimpsest::compaction
