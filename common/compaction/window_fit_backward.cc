#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "common/compaction/window_fit_steps.h"

// Section 4 of the design backwards. Letters as in window_fit.h; F fitted queries; d_x is the
// gradient of x. Of x = H^-1 r with y = H^-1 d_x: d_r = y, d_H = -y x'.
namespace palimpsest::compaction {
namespace {

// Of one thread; kept from window to window.
template <class Real>
struct BackwardScratch {
  std::vector<Real> scores, a, log_w, values;       // of the fit: [n, w], [n, w], [t], [t, d]
  std::vector<double> h, p, d_gram, product;        // [t, t], [t, d], [t, t], [F, t] or [t, t]
  std::vector<double> d_logits, d_y, d_log_w, d_a;  // [F, t], [F, d], [t], [F, t]
  std::vector<Real> d_outputs, d_scores;            // [F, d], [F, w]
  std::vector<Real> fitted_a, fitted_queries, d_queries;  // [F, w], [F, d], [F, d]
};

// out [t, t] = d_G + d_G' of H = G + m I, m = share tr(G) / t unless `held`: of solutions x [t, c]
// and y. `d_m` is what m has from elsewhere.
template <class Scratch>
void GramGradient(const double* y, const double* x, int t, int c, double share, double d_m,
                  bool held, Scratch& b) {
  b.product.resize(static_cast<size_t>(t) * t);
  b.d_gram.resize(static_cast<size_t>(t) * t);
  MultiplyRows(t, t, c, y, x, b.product.data(), -1.0);
  for (int i = 0; i < t; ++i) {
    d_m += b.product[static_cast<size_t>(i) * t + i];
    for (int j = 0; j < t; ++j) {
      b.d_gram[static_cast<size_t>(i) * t + j] =
          b.product[static_cast<size_t>(i) * t + j] + b.product[static_cast<size_t>(j) * t + i];
    }
  }
  if (!held) AddToDiagonal(b.d_gram, t, 2 * share * d_m / t);
}

// From V' to Y (b.d_y), to the kept values (b.p times lambda), and over X to the kept scores
// (b.d_logits) and to log w (b.d_log_w).
template <class Real>
void BackThroughValues(const FitTask<Real>& task, const FitGradients<Real>& g, FitScratch<Real>& s,
                       BackwardScratch<Real>& b) {
  const int t = task.t, d = task.d, fitted = s.rows.fitted;
  b.p.assign(g.new_values, g.new_values + static_cast<int64_t>(t) * d);
  CholeskySolve(s.gram, t, b.p, d);
  double d_lambda = 0;
  for (int j = 0; j < t; ++j) {
    for (int c = 0; c < d; ++c)
      d_lambda += b.p[static_cast<size_t>(j) * d + c] * task.values[task.kept[j] * d + c];
  }
  GramGradient(b.p.data(), s.rhs.data(), t, d, task.lambda, d_lambda, s.lambda <= kTinyTrace, b);
  b.d_logits.resize(static_cast<size_t>(fitted) * t);
  b.product.resize(static_cast<size_t>(fitted) * t);
  Multiply(fitted, t, t, s.x.data(), b.d_gram.data(), b.d_logits.data());
  MultiplyRows(fitted, t, d, s.y.data(), b.p.data(), b.product.data());
  b.d_y.resize(static_cast<size_t>(fitted) * d);
  Multiply(fitted, d, t, s.x.data(), b.p.data(), b.d_y.data());
  b.d_log_w.assign(g.new_bias, g.new_bias + t);
  for (int i = 0; i < fitted; ++i) {
    const double *x = s.x.data() + static_cast<int64_t>(i) * t,
                 *more = b.product.data() + static_cast<int64_t>(i) * t;
    double* d_x = b.d_logits.data() + static_cast<int64_t>(i) * t;
    double mean = 0;
    for (int j = 0; j < t; ++j) {
      d_x[j] += more[j];
      mean += d_x[j] * x[j];
    }
    for (int j = 0; j < t; ++j) {
      d_x[j] = x[j] * (d_x[j] - mean);
      b.d_log_w[j] += d_x[j];
    }
  }
}

// From log w to the kept columns of a (b.d_a).
template <class Real>
void BackThroughMass(const FitTask<Real>& task, const BoxSolution& mass, FitScratch<Real>& s,
                     BackwardScratch<Real>& b) {
  const int t = task.t, fitted = s.rows.fitted;
  for (int i = 0; i < t; ++i) {
    b.d_log_w[i] = mass.at_bound[i] ? 0 : b.d_log_w[i] / mass.w[i];
    for (int j = 0; j < t; ++j) {
      if (mass.at_bound[i] || mass.at_bound[j]) b.h[static_cast<size_t>(i) * t + j] = i == j;
    }
  }
  SolveInPlace(b.h, t, b.d_log_w, 1);
  const std::vector<double>& y = b.d_log_w;
  double d_mu = 0;
  for (const double each : y) d_mu += each;
  GramGradient(y.data(), mass.w.data(), t, 1, task.mu, d_mu, s.mu <= kTinyTrace, b);
  b.d_a.resize(static_cast<size_t>(fitted) * t);
  Multiply(fitted, t, t, s.a.data(), b.d_gram.data(), b.d_a.data());
  for (int i = 0; i < fitted; ++i) {
    for (int j = 0; j < t; ++j) b.d_a[static_cast<size_t>(i) * t + j] += y[j];
  }
}

// The fitted rows of x [n, width], without a copy where they are its first ones.
template <class Real>
const Real* FittedRows(const Real* x, int width, const Rows& rows, std::vector<Real>& copy) {
  if (rows.fitted == 0 || rows.index[rows.fitted - 1] == rows.fitted - 1) return x;
  copy.resize(static_cast<size_t>(rows.fitted) * width);
  for (int i = 0; i < rows.fitted; ++i) {
    const Real* row = x + static_cast<int64_t>(rows.index[i]) * width;
    std::copy(row, row + width, copy.data() + static_cast<int64_t>(i) * width);
  }
  return copy.data();
}

// d_S [F, w] in b.d_scores: over a from Y and from the kept columns, and over X's logits.
template <class Real>
void BackThroughSoftmax(const FitTask<Real>& task, const Real* a, const FitScratch<Real>& s,
                        BackwardScratch<Real>& b) {
  const int w = task.w, t = task.t, fitted = s.rows.fitted;
  b.d_scores.resize(static_cast<size_t>(fitted) * w);
  MultiplyRows(fitted, w, task.d, b.d_outputs.data(), task.values, b.d_scores.data());
  for (int i = 0; i < fitted; ++i) {
    Real* row = b.d_scores.data() + static_cast<int64_t>(i) * w;
    const Real* a_row = a + static_cast<int64_t>(i) * w;
    const double *d_a = b.d_a.data() + static_cast<int64_t>(i) * t,
                 *d_logits = b.d_logits.data() + static_cast<int64_t>(i) * t;
    for (int j = 0; j < t; ++j) row[task.kept[j]] += static_cast<Real>(d_a[j]);
    Real mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int j = 0; j < w; ++j) mean += row[j] * a_row[j];
    for (int j = 0; j < w; ++j) row[j] = a_row[j] * (row[j] - mean);
    for (int j = 0; j < t; ++j) row[task.kept[j]] += static_cast<Real>(d_logits[j]);
  }
}

// From the scores to queries, keys, values and biases.
template <class Real>
void BackThroughScores(const ScoreTask<Real>& score, const FitTask<Real>& task,
                       const FitGradients<Real>& g, FitScratch<Real>& s, BackwardScratch<Real>& b) {
  const int n = task.n, w = task.w, d = task.d, fitted = s.rows.fitted;
  const Real* a = FittedRows(task.a, w, s.rows, b.fitted_a);
  const Real* queries = FittedRows(score.queries, d, s.rows, b.fitted_queries);
  b.d_outputs.assign(b.d_y.begin(), b.d_y.end());
  BackThroughSoftmax(task, a, s, b);
  MultiplyColumns(w, d, fitted, a, b.d_outputs.data(), g.values);
  MultiplyColumns(w, d, fitted, b.d_scores.data(), queries, g.keys, score.scale);
  b.d_queries.resize(static_cast<size_t>(fitted) * d);
  Multiply(fitted, d, w, b.d_scores.data(), score.keys, b.d_queries.data(), score.scale);
  std::fill(g.queries, g.queries + static_cast<int64_t>(n) * d, Real{0});
  std::fill(g.bias, g.bias + w, Real{0});
  for (int i = 0; i < fitted; ++i) {
    const Real* row = b.d_queries.data() + static_cast<int64_t>(i) * d;
    std::copy(row, row + d, g.queries + static_cast<int64_t>(s.rows.index[i]) * d);
    for (int j = 0; j < w; ++j) g.bias[j] += b.d_scores[static_cast<size_t>(i) * w + j];
  }
  for (int j = 0; j < task.t; ++j) {
    g.bias[task.kept[j]] += g.new_bias[j];
    Real* value = g.values + task.kept[j] * d;
    for (int c = 0; c < d; ++c)
      value[c] += static_cast<Real>(s.lambda * b.p[static_cast<size_t>(j) * d + c]);
  }
}

}  // namespace

template <class Real>
void BackwardWindowRows(ScoreTask<Real> score, FitTask<Real> task,
                        const FitGradients<Real>& gradients) {
  static thread_local BackwardScratch<Real> b;
  b.scores.resize(static_cast<size_t>(task.n) * task.w);
  b.a.resize(b.scores.size());
  b.log_w.resize(task.t);
  b.values.resize(static_cast<size_t>(task.t) * task.d);
  score.scores = b.scores.data();
  score.a = b.a.data();
  ScoreWindowRows(score);
  task.scores = score.scores;
  task.a = score.a;
  task.new_values = b.values.data();
  task.measured = false;
  FitScratch<Real>& s = ScratchOf(task);
  double residual = 0;
  const BoxSolution mass = FitMass(task, s, &residual);
  b.h = s.gram;
  for (int j = 0; j < task.t; ++j) b.log_w[j] = static_cast<Real>(std::log(mass.w[j]));
  Serve(task, b.log_w.data(), s);
  FitValues(task, s);
  BackThroughValues(task, gradients, s, b);
  BackThroughMass(task, mass, s, b);
  BackThroughScores(score, task, gradients, s, b);
}

template void BackwardWindowRows(ScoreTask<float>, FitTask<float>, const FitGradients<float>&);
template void BackwardWindowRows(ScoreTask<double>, FitTask<double>, const FitGradients<double>&);

}  // namespace palimpsest::compaction
