#include "common/compaction/box_solver.h"

#include <algorithm>
#include <cmath>

#include "common/compaction/cholesky.h"
#include "common/compaction/dot.h"

namespace palimpsest::compaction {
namespace {

constexpr int kNewtonSolves = 20;  // default parameters need 2 to 8
constexpr int kActiveSetSolvesPerWeight = 20;
constexpr int kMaxHalvings = 40;
constexpr double kSufficientDecrease = 1e-4;

// gradient = Hw - c; returns the objective 1/2 w'Hw - c'w.
double Evaluate(const BoxProblem& p, const std::vector<double>& w, std::vector<double>& gradient) {
  double value = 0;
  for (int i = 0; i < p.t; ++i) {
    const double sum = Dot(p.h.data() + static_cast<size_t>(i) * p.t, w.data(), p.t);
    value += w[i] * (0.5 * sum - p.c[i]);
    gradient[i] = sum - p.c[i];
  }
  return value;
}

// Marks what a bound holds and returns the KKT residual.
double MarkBounds(const BoxProblem& p, const std::vector<double>& gradient, BoxSolution& s) {
  double residual = 0;
  for (int i = 0; i < p.t; ++i) {
    const bool low = s.w[i] <= p.lower && gradient[i] >= 0;
    const bool high = s.w[i] >= p.upper && gradient[i] <= 0;
    s.at_bound[i] = low || high;
    if (!s.at_bound[i]) residual = std::max(residual, std::abs(gradient[i]));
  }
  return residual;
}

// Newton direction of the free weights, 0 elsewhere.
std::vector<double> Direction(const BoxProblem& p, const std::vector<double>& gradient,
                              const BoxSolution& s) {
  std::vector<int> free;
  for (int i = 0; i < p.t; ++i) {
    if (!s.at_bound[i]) free.push_back(i);
  }
  const int f = static_cast<int>(free.size());
  std::vector<double> h(static_cast<size_t>(f) * f), rhs(f), direction(p.t, 0.0);
  for (int i = 0; i < f; ++i) {
    for (int j = 0; j < f; ++j)
      h[static_cast<size_t>(i) * f + j] = p.h[static_cast<size_t>(free[i]) * p.t + free[j]];
    rhs[i] = -gradient[free[i]];
  }
  SolveInPlace(h, f, rhs, 1);
  for (int i = 0; i < f; ++i) direction[free[i]] = rhs[i];
  return direction;
}

// Walks from w along the direction up to the first bound, which then holds; returns whether the
// whole step fitted.
bool StepToFirstBound(const BoxProblem& p, const std::vector<double>& direction, BoxSolution& s) {
  double step = 1;
  int blocking = -1;
  for (int i = 0; i < p.t; ++i) {
    if (s.at_bound[i] || direction[i] == 0) continue;
    const double room = (direction[i] > 0 ? p.upper : p.lower) - s.w[i];
    if (room / direction[i] < step) step = room / direction[i], blocking = i;
  }
  for (int i = 0; i < p.t; ++i) s.w[i] = std::clamp(s.w[i] + step * direction[i], p.lower, p.upper);
  if (blocking < 0) return true;
  s.w[blocking] = direction[blocking] > 0 ? p.upper : p.lower;
  s.at_bound[blocking] = 1;
  return false;
}

// The textbook primal active set: one bound is taken on or, at the optimum of the free weights, let
// go per solve. Slower than the projected steps, but it cannot zigzag between faces that are nearly
// optimal, as those do for tight boxes of ill-conditioned systems.
void WalkFaces(const BoxProblem& p, BoxSolution& s) {
  std::vector<double> gradient(p.t);
  Evaluate(p, s.w, gradient);
  MarkBounds(p, gradient, s);
  const int limit = s.solves + kActiveSetSolvesPerWeight * p.t;
  while (s.solves < limit) {
    const bool optimum = StepToFirstBound(p, Direction(p, gradient, s), s);
    ++s.solves;
    Evaluate(p, s.w, gradient);
    if (!optimum) continue;
    int worst = -1;
    double most = p.tolerance;
    for (int i = 0; i < p.t; ++i) {
      const double pull = s.w[i] <= p.lower ? -gradient[i] : gradient[i];
      if (s.at_bound[i] && pull > most) most = pull, worst = i;
    }
    if (worst < 0) break;
    s.at_bound[worst] = 0;
  }
  s.kkt_residual = MarkBounds(p, gradient, s);
}

}  // namespace

BoxSolution SolveBox(const BoxProblem& p) {
  BoxSolution s;
  s.w.assign(p.t, std::clamp(1.0, p.lower, p.upper));
  s.at_bound.assign(p.t, 0);
  std::vector<double> gradient(p.t), trial(p.t), trial_gradient(p.t);
  double value = Evaluate(p, s.w, gradient);
  s.kkt_residual = MarkBounds(p, gradient, s);
  while (s.kkt_residual > p.tolerance && s.solves < kNewtonSolves) {
    const std::vector<double> direction = Direction(p, gradient, s);
    ++s.solves;
    double step = 1;
    bool moved = false;
    for (int halving = 0; halving < kMaxHalvings && !moved; ++halving, step *= 0.5) {
      double slope = 0;
      for (int i = 0; i < p.t; ++i) {
        trial[i] = std::clamp(s.w[i] + step * direction[i], p.lower, p.upper);
        slope += gradient[i] * (trial[i] - s.w[i]);
      }
      const double trial_value = Evaluate(p, trial, trial_gradient);
      // The last term allows for rounding of the two objectives once the steps are tiny.
      if (trial_value <= value + kSufficientDecrease * slope + 1e-15 * std::abs(value)) {
        moved = trial != s.w;
        s.w = trial;
        gradient = trial_gradient;
        value = trial_value;
        break;
      }
    }
    const double before = s.kkt_residual;
    s.kkt_residual = MarkBounds(p, gradient, s);
    if (!moved && s.kkt_residual >= before) break;  // rounding is all that is left
  }
  if (s.kkt_residual > p.tolerance && s.solves == kNewtonSolves) WalkFaces(p, s);
  return s;
}

}  // namespace palimpsest::compaction
