#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/base/softmax_row.h"
#include "common/compaction/blas.h"
#include "common/compaction/box_solver.h"
#include "common/compaction/cholesky.h"
#include "common/compaction/window_fit.h"

// The steps of a fit, which its gradients go back through. For the files of window_fit.h alone.
// Letters as there.
namespace palimpsest::compaction {

// The rows that a fit looks at, those that are fitted first: M rows, of which F are fitted.
struct Rows {
  std::vector<int> index;  // [M]
  int fitted = 0;          // F
};
inline void ListRows(const bool* fitted, const bool* held_out, int n, Rows& rows) {
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
  double mu = 0, lambda = 0;              // as they stand in the systems
  std::vector<Real> soft, outputs, fits;  // [M, t], [n, d], [M, d]
};

inline double MeanTrace(const std::vector<double>& gram, int t) {
  double trace = 0;
  for (int j = 0; j < t; ++j) trace += gram[static_cast<size_t>(j) * t + j];
  return trace / t;
}

inline void AddToDiagonal(std::vector<double>& gram, int t, double amount) {
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

// This thread's, with the rows and kept columns of `task`.
template <class Real>
FitScratch<Real>& ScratchOf(const FitTask<Real>& task) {
  static thread_local FitScratch<Real> scratch;
  ListRows(task.fitted, task.measured ? task.held_out : nullptr, task.n, scratch.rows);
  GatherKept(task, scratch);
  return scratch;
}

// w of section 4.3. Leaves H = A'A + mu I in s.gram.
template <class Real>
BoxSolution FitMass(const FitTask<Real>& task, FitScratch<Real>& s, double* kkt_residual) {
  const int t = task.t;
  s.gram.resize(static_cast<size_t>(t) * t);
  MultiplyColumns(t, t, s.rows.fitted, s.a.data(), s.a.data(), s.gram.data());
  const double trace = MeanTrace(s.gram, t);
  s.mu = std::max(task.mu * trace, kTinyTrace);
  s.column.assign(t, s.mu);
  for (int i = 0; i < s.rows.fitted; ++i) {
    for (int j = 0; j < t; ++j) s.column[j] += s.a[static_cast<size_t>(i) * t + j];
  }
  AddToDiagonal(s.gram, t, s.mu);
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
    const Real* row = task.scores + static_cast<int64_t>(i) * task.w;
    for (int j = 0; j < t; ++j) to[j] = row[task.kept[j]] + log_w[j];
    if (t > 0) SoftmaxRow(to, t, to);
    to += t;
  }
  s.outputs.resize(static_cast<size_t>(task.n) * d);
  Multiply(task.n, d, task.w, task.a, task.values, s.outputs.data());
}

// V' of section 4.4. Leaves the factor of X'X + lambda I in s.gram, V' in s.rhs, and what is fitted
// of X and Y in s.x and s.y.
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
  s.lambda = std::max(task.lambda * MeanTrace(s.gram, t), kTinyTrace);
  AddToDiagonal(s.gram, t, s.lambda);
  s.rhs.resize(static_cast<size_t>(t) * d);
  MultiplyColumns(t, d, fitted, s.x.data(), s.y.data(), s.rhs.data());
  for (int j = 0; j < t; ++j) {
    const Real* value = task.values + task.kept[j] * d;
    for (int c = 0; c < d; ++c) s.rhs[static_cast<size_t>(j) * d + c] += s.lambda * value[c];
  }
  SolveInPlace(s.gram, t, s.rhs, d);
  std::copy(s.rhs.begin(), s.rhs.end(), task.new_values);
}

}  // namespace palimpsest::compaction
