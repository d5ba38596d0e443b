#include "common/compaction/window_fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/compaction/window_fit_steps.h"

namespace palimpsest::compaction {
namespace {

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

}  // namespace

template <class Real>
void ScoreWindowRows(const ScoreTask<Real>& task) {
  MultiplyRows(task.n, task.w, task.d, task.queries, task.keys, task.scores, task.scale);
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
