#include "common/compaction/cuda/solve.h"

#include <gtest/gtest.h>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"
#include "tests/unit/common/compaction/slow_match.h"

namespace palimpsest::compaction {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Error;
using testing::Matrix;
using testing::Row;

// Problems of several sizes side by side, each with a Gram matrix of random softmax-like rows.
struct Systems {
  int t = 0;
  std::vector<HeadFacts> heads;
  std::vector<Matrix> rows;  // A of each problem [queries][keep]
};

Systems Draw(std::mt19937& rng, const std::vector<std::pair<int, int>>& keep_and_queries, double mu,
             double log_bound) {
  Systems s;
  std::uniform_real_distribution<double> uniform;
  for (const auto& [keep, queries] : keep_and_queries) {
    s.t = std::max(s.t, keep);
    s.heads.push_back({.width = 2 * keep,
                       .keep = keep,
                       .queries = queries,
                       .mu = mu,
                       .log_lower = -log_bound,
                       .log_upper = log_bound});
    Matrix a(queries, Row(keep));
    for (Row& row : a) {
      double sum = 0;
      for (double& x : row) sum += x = std::exp(6 * uniform(rng));
      const double share = 0.2 + 0.7 * uniform(rng);  // of the window that stays
      for (double& x : row) x *= share / sum;
    }
    s.rows.push_back(std::move(a));
  }
  return s;
}

// H = A'A + mu I and c = A'1 + mu of a problem.
std::pair<Matrix, Row> Quadratic(const Systems& s, size_t problem) {
  const HeadFacts& facts = s.heads[problem];
  Matrix h(facts.keep, Row(facts.keep, 0.0));
  Row c(facts.keep, 0.0);
  for (const Row& row : s.rows[problem]) {
    for (int i = 0; i < facts.keep; ++i) {
      c[i] += row[i];
      for (int j = 0; j < facts.keep; ++j) h[i][j] += row[i] * row[j];
    }
  }
  double trace = 0;
  for (int i = 0; i < facts.keep; ++i) trace += h[i][i];
  const double mu = facts.mu * trace / facts.keep;
  for (int i = 0; i < facts.keep; ++i) h[i][i] += mu, c[i] += mu;
  return {h, c};
}

struct Solved {
  std::vector<double> log_weights, residuals;
  std::vector<int32_t> solves;
};

Solved Solve(const Systems& s) {
  const int problems = static_cast<int>(s.heads.size());
  std::vector<double> gram(static_cast<size_t>(problems) * s.t * (s.t + 1), 0.0);
  for (int p = 0; p < problems; ++p) {
    for (const Row& row : s.rows[p]) {
      for (size_t i = 0; i < row.size(); ++i) {
        double* to = gram.data() + (static_cast<size_t>(p) * s.t + i) * (s.t + 1);
        for (size_t j = 0; j < row.size(); ++j) to[j] += row[i] * row[j];
        to[s.t] += row[i];
      }
    }
  }
  const DeviceArray<HeadFacts> heads(s.heads);
  const DeviceArray<double> gram_there(gram), scratch(gram.size()),
      log_weights(static_cast<size_t>(problems) * s.t), residuals(problems);
  const DeviceArray<int32_t> solves(problems);
  const cuda::Launched launched = SolveWeights({.heads = heads.data(),
                                                .gram = gram_there.data(),
                                                .scratch = scratch.data(),
                                                .log_weights = log_weights.data(),
                                                .kkt_residuals = residuals.data(),
                                                .solves = solves.data(),
                                                .problems = problems,
                                                .t = s.t},
                                               nullptr);
  EXPECT_TRUE(launched.ok()) << launched.error;
  scratch.Read();
  return {log_weights.Read(), residuals.Read(), solves.Read()};
}

// max |gradient|, one-sided at the bounds, relative to the mean diagonal of A'A.
double KktResidual(const Systems& s, size_t problem, const Row& log_weights) {
  const auto [h, c] = Quadratic(s, problem);
  const HeadFacts& facts = s.heads[problem];
  double residual = 0, trace = 0;
  for (int i = 0; i < facts.keep; ++i) {
    double gradient = -c[i];
    for (int j = 0; j < facts.keep; ++j) gradient += h[i][j] * std::exp(log_weights[j]);
    const bool low = log_weights[i] <= facts.log_lower + 1e-12 && gradient > 0;
    const bool high = log_weights[i] >= facts.log_upper - 1e-12 && gradient < 0;
    if (!low && !high) residual = std::max(residual, std::abs(gradient));
    trace += h[i][i];
  }
  return residual * facts.keep * (1 + facts.mu) / trace;
}

const std::vector<std::pair<int, int>> kSizes = {{1, 1},   {1, 9},   {31, 64},  {32, 40},
                                                 {33, 90}, {64, 20}, {100, 256}};

TEST(SolveWeightsTest, ReachesTheOptimumInsideAndAtTheBounds) {
  std::mt19937 rng(1);
  for (const double log_bound : {7.0, 0.4}) {
    const Systems s = Draw(rng, kSizes, 1e-2, log_bound);
    const Solved solved = Solve(s);
    int at_bounds = 0;
    for (size_t p = 0; p < s.heads.size(); ++p) {
      const auto begin = solved.log_weights.begin() + p * s.t;
      const Row log_weights(begin, begin + s.heads[p].keep);
      for (const double w : log_weights) at_bounds += std::abs(w) > log_bound - 1e-9;
      EXPECT_LT(KktResidual(s, p, log_weights), 1e-8) << "problem " << p;
      EXPECT_LE(solved.residuals[p], 1e-9);
      EXPECT_LE(solved.solves[p], 20);
      if (s.heads[p].keep <= 33) {  // slow for more
        const auto [h, c] = Quadratic(s, p);
        Row slow = testing::SlowBox(h, c, std::exp(-log_bound), std::exp(log_bound));
        for (double& w : slow) w = std::log(w);
        EXPECT_LT(Error(log_weights, slow), 1e-6) << "problem " << p;
      }
      // Eviction's weights are no optimum: the bound tells one from the other.
      EXPECT_GT(KktResidual(s, p, Row(log_weights.size(), 0.0)), 1e-4);
    }
    if (log_bound < 1) {
      EXPECT_GT(at_bounds, 10);
    }
  }
}

TEST(SolveWeightsTest, WalksTheFacesWhereNewtonZigzags) {
  std::mt19937 rng(2);
  // Few queries for many weights, hardly a prior, tight bounds.
  std::vector<std::pair<int, int>> sizes(12, {48, 12});
  const Systems s = Draw(rng, sizes, 1e-6, 0.3);
  const Solved solved = Solve(s);
  for (size_t p = 0; p < s.heads.size(); ++p) {
    const auto begin = solved.log_weights.begin() + p * s.t;
    EXPECT_LT(KktResidual(s, p, Row(begin, begin + s.t)), 1e-8) << solved.solves[p] << " solves";
  }
}

TEST(SolveWeightsTest, GivesAProblemTheSameBitsInEveryBatchAndOrderOfThreads) {
  std::mt19937 rng(3);
  const Systems together = Draw(rng, {{40, 64}, {64, 64}, {7, 64}}, 1e-2, 7);
  const Solved solved = Solve(together);
  for (size_t p = 0; p < together.heads.size(); ++p) {
    gpu_testing::ShuffleThreads(p + 1);
    Systems alone{together.t, {together.heads[p]}, {together.rows[p]}};
    const Solved only = Solve(alone);
    for (int i = 0; i < together.t; ++i)
      EXPECT_EQ(only.log_weights[i], solved.log_weights[p * together.t + i]);
  }
  gpu_testing::ShuffleThreads(0);
}

TEST(SolveValuesTest, EqualsEliminationForEverySizeOfSystem) {
  std::mt19937 rng(4);
  for (const int d : {16, 64, 128}) {
    const Systems s = Draw(rng, kSizes, 1e-2, 7);
    const int problems = static_cast<int>(s.heads.size()), ld = s.t + d;
    std::normal_distribution<float> normal;
    std::vector<double> gram(static_cast<size_t>(problems) * s.t * ld, 0.0);
    std::vector<float> kept(static_cast<size_t>(problems) * s.t * d);
    for (float& v : kept) v = normal(rng);
    std::vector<Matrix> right, no_prior;
    for (int p = 0; p < problems; ++p) {
      const int keep = s.heads[p].keep;
      Matrix g(keep, Row(keep, 0.0)), b(keep, Row(d));
      double trace = 0;
      for (int i = 0; i < keep; ++i) {
        for (const Row& row : s.rows[p]) {
          for (int j = 0; j < keep; ++j) g[i][j] += row[i] * row[j];
        }
        trace += g[i][i];
        for (int c = 0; c < d; ++c) b[i][c] = normal(rng);
        double* to = gram.data() + (static_cast<size_t>(p) * s.t + i) * ld;
        std::copy(g[i].begin(), g[i].end(), to);
        std::copy(b[i].begin(), b[i].end(), to + s.t);
      }
      const double lambda = s.heads[p].lambda * trace / keep;
      for (int i = 0; i < keep; ++i) g[i][i] += lambda;
      no_prior.push_back(testing::SlowSolve(g, b));
      for (int i = 0; i < keep; ++i) {
        for (int c = 0; c < d; ++c) b[i][c] += lambda * kept[(p * s.t + i) * d + c];
      }
      right.push_back(testing::SlowSolve(g, b));
    }
    const DeviceArray<HeadFacts> heads(s.heads);
    const DeviceArray<double> gram_there(gram);
    const DeviceArray<float> kept_there(kept);
    ASSERT_TRUE(SolveValues({.heads = heads.data(),
                             .gram = gram_there.data(),
                             .kept = kept_there.data(),
                             .problems = problems,
                             .t = s.t,
                             .d = d},
                            nullptr)
                    .ok());
    const std::vector<double> out = gram_there.Read();
    for (int p = 0; p < problems; ++p) {
      const int keep = s.heads[p].keep;
      std::vector<double> got, expected, wrong;
      for (int i = 0; i < keep; ++i) {
        for (int c = 0; c < d; ++c) {
          got.push_back(out[(static_cast<size_t>(p) * s.t + i) * ld + keep + c]);
          expected.push_back(right[p][i][c]), wrong.push_back(no_prior[p][i][c]);
        }
      }
      EXPECT_LT(Error(got, expected), 1e-9) << "keep " << keep << ", d " << d;
      EXPECT_GT(Error(got, wrong), 1e-6);
    }
  }
}

TEST(SolveArgumentsTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(SolveWeights({.problems = 1, .t = 1025}, nullptr).error, "t=1025 is not in [1, 1024]");
  EXPECT_EQ(SolveValues({.problems = 1, .t = 4, .d = 300}, nullptr).error,
            "d=300 is not in [1, 256]");
}

}  // namespace
}  // namespace palimpsest::compaction
