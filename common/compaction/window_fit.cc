#include "common/compaction/window_fit.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "common/base/exp_negative.h"
#include "common/compaction/blas.h"
#include "common/compaction/box_solver.h"
#include "common/compaction/cholesky.h"

namespace palimpsest::compaction {
namespace {

// x [n] becomes its softmax in `out`, which may be x.
template <class Real>
void SoftmaxRow(const Real* x, int n, Real* out) {
  const Real most = *std::max_element(x, x + n);
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    out[j] = ExpNegative(x[j] - most);
    sum += out[j];
  }
  const Real inverse = 1 / sum;
  for (int j = 0; j < n; ++j) out[j] *= inverse;
}

// The rows that a fit looks at, those that are fitted first: M rows, of which F are fitted.
struct Rows {
  std::vector<int> index;  // [M]
  int fitted = 0;          // F
};
void ListRows(const bool* fitted, const bool* held_out, int n, Rows& rows) {
  rows.index.clear();
  for (int i = 0; i < n; ++i) {
    if (fitted[i]) rows.index.push_back(i);
  }
  rows.fitted = static_cast<int>(rows.index.size());
  for (int i = 0; i < n && held_out != nullptr; ++i) {
    if (held_out[i]) rows.index.push_back(i);
  }
}

// Of one thread; kept from window to window.
template <class Real>
struct FitScratch {
  Rows rows;
  std::vector<double> a, x, y;            // [M, t], [M, t], [M, d]
  std::vector<double> gram, rhs, column;  // [t, t], [t, d], [t]
  std::vector<Real> soft, outputs, fits;  // [M, t], [n, d], [M, d]
};

double MeanTrace(const std::vector<double>& gram, int t) {
  double trace = 0;
  for (int j = 0; j < t; ++j) trace += gram[static_cast<size_t>(j) * t + j];
  return trace / t;
}

void AddToDiagonal(std::vector<double>& gram, int t, double amount) {
  for (int j = 0; j < t; ++j) gram[static_cast<size_t>(j) * t + j] += amount;
}

// Columns of the kept slots, as doubles.
template <class Real>
void GatherKept(const FitTask<Real>& task, FitScratch<Real>& s) {
  s.a.resize(s.rows.index.size() * task.t);
  double* to = s.a.data();
  for (const int i : s.rows.index) {
    const Real* row = task.a + static_cast<int64_t>(i) * task.w;
    for (int j = 0; j < task.t; ++j) *to++ = row[task.kept[j]];
  }
}

// w of section 4.3.
template <class Real>
BoxSolution FitMass(const FitTask<Real>& task, FitScratch<Real>& s, double* kkt_residual) {
  const int t = task.t;
  s.gram.resize(static_cast<size_t>(t) * t);
  MultiplyColumns(t, t, s.rows.fitted, s.a.data(), s.a.data(), s.gram.data());
  const double trace = MeanTrace(s.gram, t), mu = std::max(task.mu * trace, kTinyTrace);
  s.column.assign(t, mu);
  for (int i = 0; i < s.rows.fitted; ++i) {
    for (int j = 0; j < t; ++j) s.column[j] += s.a[static_cast<size_t>(i) * t + j];
  }
  AddToDiagonal(s.gram, t, mu);
  const double unit = std::max(trace, kTinyTrace);
  BoxSolution solution = SolveBox({.h = s.gram,
                                   .c = s.column,
                                   .t = t,
                                   .lower = task.lower,
                                   .upper = task.upper,
                                   .tolerance = unit * (0.1 * kKktTolerance)});
  *kkt_residual = solution.kkt_residual / unit;
  return solution;
}

// X: each row's softmax over the kept slots of score + log w; and Y = A V over the whole window.
template <class Real>
void Serve(const FitTask<Real>& task, const Real* log_w, FitScratch<Real>& s) {
  const int t = task.t, d = task.d;
  s.soft.resize(s.rows.index.size() * t);
  Real* to = s.soft.data();
  for (const int i : s.rows.index) {
    if (t == 0) break;
    const Real* row = task.scores + static_cast<int64_t>(i) * task.w;
    for (int j = 0; j < t; ++j) to[j] = row[task.kept[j]] + log_w[j];
    SoftmaxRow(to, t, to);
    to += t;
  }
  s.outputs.resize(static_cast<size_t>(task.n) * d);
  Multiply(task.n, d, task.w, task.a, task.values, s.outputs.data());
}

// V' of section 4.4.
template <class Real>
void FitValues(const FitTask<Real>& task, FitScratch<Real>& s) {
  const int t = task.t, d = task.d, fitted = s.rows.fitted;
  s.x.assign(s.soft.begin(), s.soft.begin() + static_cast<int64_t>(fitted) * t);
  s.y.resize(static_cast<size_t>(fitted) * d);
  for (int i = 0; i < fitted; ++i) {
    const Real* row = s.outputs.data() + static_cast<int64_t>(s.rows.index[i]) * d;
    std::copy(row, row + d, s.y.data() + static_cast<int64_t>(i) * d);
  }
  MultiplyColumns(t, t, fitted, s.x.data(), s.x.data(), s.gram.data());
  const double lambda = std::max(task.lambda * MeanTrace(s.gram, t), kTinyTrace);
  AddToDiagonal(s.gram, t, lambda);
  s.rhs.resize(static_cast<size_t>(t) * d);
  MultiplyColumns(t, d, fitted, s.x.data(), s.y.data(), s.rhs.data());
  for (int j = 0; j < t; ++j) {
    const Real* value = task.values + task.kept[j] * d;
    for (int c = 0; c < d; ++c) s.rhs[static_cast<size_t>(j) * d + c] += lambda * value[c];
  }
  SolveInPlace(s.gram, t, s.rhs, d);
  std::copy(s.rhs.begin(), s.rhs.end(), task.new_values);
}

// Of rows [begin, end) of the list; s.fits are what the kept slots serve.
template <class Real>
RowErrors ErrorsOf(const FitTask<Real>& task, const FitScratch<Real>& s, const double* w, int begin,
                   int end) {
  double mass = 0, difference = 0, norm = 0;
  for (int i = begin; i < end; ++i) {
    double served = 0;
    for (int j = 0; j < task.t; ++j) served += s.a[static_cast<size_t>(i) * task.t + j] * w[j];
    mass += std::abs(served - 1);
    const Real* y = s.outputs.data() + static_cast<int64_t>(s.rows.index[i]) * task.d;
    for (int c = 0; c < task.d; ++c) {
      const double wanted = y[c], gap = s.fits[static_cast<size_t>(i) * task.d + c] - wanted;
      difference += gap * gap;
      norm += wanted * wanted;
    }
  }
  return {.mass = mass / std::max(end - begin, 1),
          .output = std::sqrt(difference) / std::max(std::sqrt(norm), 1e-300)};
}

// `values` [t, d] and weights `w` against the whole window.
template <class Real>
void Measure(const FitTask<Real>& task, const Real* values, const double* w, FitScratch<Real>& s,
             FitOutcome& outcome) {
  const int all = static_cast<int>(s.rows.index.size());
  s.fits.assign(static_cast<size_t>(all) * task.d, Real{0});
  if (task.t > 0) Multiply(all, task.d, task.t, s.soft.data(), values, s.fits.data());
  outcome.fitted = ErrorsOf(task, s, w, 0, s.rows.fitted);
  if (task.held_out != nullptr) outcome.held_out = ErrorsOf(task, s, w, s.rows.fitted, all);
}

template <class Real>
FitScratch<Real>& ScratchOf(const FitTask<Real>& task) {
  static thread_local FitScratch<Real> scratch;
  ListRows(task.fitted, task.measured ? task.held_out : nullptr, task.n, scratch.rows);
  GatherKept(task, scratch);
  return scratch;
}

}  // namespace

template <class Real>
void ScoreWindowRows(const ScoreTask<Real>& task) {
  MultiplyRows(task.n, task.w, task.d, task.scale, task.queries, task.keys, task.scores);
  for (int i = 0; i < task.n; ++i) {
    Real* row = task.scores + static_cast<int64_t>(i) * task.w;
    for (int j = 0; j < task.w; ++j)
      row[j] = task.real[j] ? row[j] + task.bias[j] : static_cast<Real>(kPadScore);
    SoftmaxRow(row, task.w, task.a + static_cast<int64_t>(i) * task.w);
  }
}

template <class Real>
FitOutcome FitWindowRows(const FitTask<Real>& task) {
  FitScratch<Real>& s = ScratchOf(task);
  FitOutcome outcome;
  const BoxSolution mass = FitMass(task, s, &outcome.kkt_residual);
  for (int j = 0; j < task.t; ++j) task.new_bias[j] = static_cast<Real>(std::log(mass.w[j]));
  Serve(task, task.new_bias, s);
  for (int j = 0; j < task.t; ++j) task.new_bias[j] += task.bias[task.kept[j]];
  FitValues(task, s);
  if (task.measured) Measure(task, task.new_values, mass.w.data(), s, outcome);
  return outcome;
}

template <class Real>
FitOutcome MeasureKeptRows(const FitTask<Real>& task) {
  FitScratch<Real>& s = ScratchOf(task);
  const std::vector<Real> no_change(task.t, 0);
  const std::vector<double> ones(task.t, 1);
  Serve(task, no_change.data(), s);
  std::vector<Real> values(static_cast<size_t>(task.t) * task.d);
  for (int j = 0; j < task.t; ++j) {
    const Real* value = task.values + task.kept[j] * task.d;
    std::copy(value, value + task.d, values.data() + static_cast<int64_t>(j) * task.d);
  }
  FitOutcome outcome;
  Measure(task, values.data(), ones.data(), s, outcome);
  return outcome;
}

template void ScoreWindowRows(const ScoreTask<float>&);
template void ScoreWindowRows(const ScoreTask<double>&);
template FitOutcome FitWindowRows(const FitTask<float>&);
template FitOutcome FitWindowRows(const FitTask<double>&);
template FitOutcome MeasureKeptRows(const FitTask<float>&);
template FitOutcome MeasureKeptRows(const FitTask<double>&);

}  // namespace palimpsest::compaction
