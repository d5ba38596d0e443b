#include "tests/unit/common/compaction/slow_match.h"

#include <algorithm>
#include <cmath>

namespace palimpsest::compaction::testing {
namespace {

double Dot(const Row& a, const Row& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double LogSumExp(const Row& x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

// X'Y over the rows that `use` marks.
Matrix Product(const Matrix& x, const Matrix& y, const std::vector<uint8_t>& use) {
  Matrix out(x[0].size(), Row(y[0].size(), 0.0));
  for (size_t i = 0; i < x.size(); ++i) {
    if (!use[i]) continue;
    for (size_t j = 0; j < x[i].size(); ++j) {
      for (size_t c = 0; c < y[i].size(); ++c) out[j][c] += x[i][j] * y[i][c];
    }
  }
  return out;
}

double MeanTrace(const Matrix& g) {
  double sum = 0;
  for (size_t i = 0; i < g.size(); ++i) sum += g[i][i];
  return sum / static_cast<double>(g.size());
}

}  // namespace

Matrix SlowScores(const SlowProblem& p) {
  Matrix s(p.queries.size(), Row(p.keys.size()));
  for (size_t i = 0; i < p.queries.size(); ++i) {
    for (size_t j = 0; j < p.keys.size(); ++j)
      s[i][j] = p.scale * Dot(p.queries[i], p.keys[j]) + p.bias[j];
  }
  return s;
}

Matrix SlowSoftmax(const Matrix& scores) {
  Matrix a = scores;
  for (Row& row : a) {
    const double l = LogSumExp(row);
    for (double& v : row) v = std::exp(v - l);
  }
  return a;
}

Row SlowBox(const Matrix& h, const Row& c, double lower, double upper) {
  const size_t t = c.size();
  Row w(t, std::clamp(1.0, lower, upper));
  for (int sweep = 0; sweep < 1000000; ++sweep) {
    double moved = 0;
    for (size_t i = 0; i < t; ++i) {
      const double next = std::clamp(w[i] - (Dot(h[i], w) - c[i]) / h[i][i], lower, upper);
      moved = std::max(moved, std::abs(next - w[i]));
      w[i] = next;
    }
    if (moved <= 1e-14) break;
  }
  return w;
}

Matrix SlowSolve(Matrix a, Matrix b) {
  const size_t t = a.size();
  for (size_t k = 0; k < t; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < t; ++i) {
      if (std::abs(a[i][k]) > std::abs(a[pivot][k])) pivot = i;
    }
    std::swap(a[k], a[pivot]);
    std::swap(b[k], b[pivot]);
    for (size_t i = 0; i < t; ++i) {
      if (i == k) continue;
      const double f = a[i][k] / a[k][k];
      for (size_t j = k; j < t; ++j) a[i][j] -= f * a[k][j];
      for (size_t j = 0; j < b[i].size(); ++j) b[i][j] -= f * b[k][j];
    }
  }
  for (size_t i = 0; i < t; ++i) {
    for (double& v : b[i]) v /= a[i][i];
  }
  return b;
}

SlowFit SlowMatch(const SlowProblem& p) {
  const size_t n = p.queries.size(), t = p.kept.size(), d = p.values[0].size();
  const Matrix scores = SlowScores(p), a = SlowSoftmax(scores);
  Matrix a_kept(n, Row(t)), ones(n, Row(1, 1.0)), y(n, Row(d, 0.0)), x(n, Row(t));
  for (size_t i = 0; i < n; ++i) {
    const double share = p.rest_log_mass.empty()
                             ? 1.0
                             : 1 / (1 + std::exp(p.rest_log_mass[i] - LogSumExp(scores[i])));
    for (size_t j = 0; j < t; ++j) a_kept[i][j] = a[i][p.kept[j]];
    for (size_t j = 0; j < p.keys.size(); ++j) {
      for (size_t c = 0; c < d; ++c) y[i][c] += share * a[i][j] * p.values[j][c];
    }
  }
  Matrix h = Product(a_kept, a_kept, p.fitted), right = Product(a_kept, ones, p.fitted);
  const double mu = p.mu * MeanTrace(h);
  Row c(t);
  for (size_t j = 0; j < t; ++j) h[j][j] += mu, c[j] = right[j][0] + mu;
  const Row w = SlowBox(h, c, p.lower, p.upper);

  SlowFit fit;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < t; ++j) x[i][j] = scores[i][p.kept[j]] + std::log(w[j]);
  }
  x = SlowSoftmax(x);
  Matrix g = Product(x, x, p.fitted), rhs = Product(x, y, p.fitted);
  const double lambda = p.lambda * MeanTrace(g);
  for (size_t j = 0; j < t; ++j) {
    g[j][j] += lambda;
    for (size_t k = 0; k < d; ++k) rhs[j][k] += lambda * p.values[p.kept[j]][k];
    fit.bias.push_back(p.bias[p.kept[j]] + std::log(w[j]));
  }
  fit.values = SlowSolve(g, rhs);

  const auto errors = [&](const std::vector<uint8_t>& use, double& mass, double& output) {
    double rows = 0, missed = 0, norm = 0;
    mass = 0;
    for (size_t i = 0; i < n; ++i) {
      if (use.empty() || !use[i]) continue;
      ++rows;
      mass += std::abs(Dot(a_kept[i], w) - 1);
      for (size_t k = 0; k < d; ++k) {
        double out = 0;
        for (size_t j = 0; j < t; ++j) out += x[i][j] * fit.values[j][k];
        missed += (out - y[i][k]) * (out - y[i][k]);
        norm += y[i][k] * y[i][k];
      }
    }
    mass /= std::max(rows, 1.0);
    output = norm > 0 ? std::sqrt(missed / norm) : 0;
  };
  errors(p.fitted, fit.mass_error, fit.output_error);
  errors(p.held, fit.held_mass_error, fit.held_output_error);
  return fit;
}

}  // namespace palimpsest::compaction::testing
