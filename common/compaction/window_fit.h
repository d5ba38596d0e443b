#pragma once

#include <cstdint>

// One window of one KV head, scored and fitted without autograd: equations 1, 3 and 4 of section 4
// of the design. Products are the library's, what stands between them is one pass over each row.
// A window's numbers depend on nothing but its own. Letters: n queries, w window slots, t kept
// slots, d head width. Real is float or double. Matrices are row-major.
namespace palimpsest::compaction {

inline constexpr double kPadScore = -1e30;   // finite, so that no row is ever NaN
inline constexpr double kTinyTrace = 1e-30;  // kept slots without mass fall back to w = 1, V' = V
inline constexpr double kKktTolerance = 1e-8;

template <class Real>
struct ScoreTask {
  const Real* queries = nullptr;  // [n, d]
  const Real* keys = nullptr;     // [w, d]
  const Real* bias = nullptr;     // [w]
  const bool* real = nullptr;     // [w]; other slots score kPadScore
  int n = 0, w = 0, d = 0;
  Real scale = 1;
  Real* scores = nullptr;  // [n, w] scale q k + bias
  Real* a = nullptr;       // [n, w] their softmax over the window
};
template <class Real>
void ScoreWindowRows(const ScoreTask<Real>& task);

template <class Real>
struct FitTask {
  const Real* scores = nullptr;    // [n, w]
  const Real* a = nullptr;         // [n, w]
  const Real* values = nullptr;    // [w, d]
  const Real* bias = nullptr;      // [w]
  const bool* fitted = nullptr;    // [n]
  const bool* held_out = nullptr;  // [n]; nullptr: none
  const int64_t* kept = nullptr;   // [t] slots of the window
  int n = 0, w = 0, t = 0, d = 0;  // t >= 1
  double mu = 0, lambda = 0, lower = 0, upper = 0;
  bool measured = false;       // or the errors stay 0
  Real* new_bias = nullptr;    // [t] b_j + log w_j
  Real* new_values = nullptr;  // [t, d] V'
};

struct RowErrors {
  double mass = 0, output = 0;  // mean |sum_j a_ij w_j - 1|; |X V' - Y| / |Y|
};
struct FitOutcome {
  double kkt_residual = 0;  // relative to tr(G) / t
  RowErrors fitted, held_out;
};
template <class Real>
FitOutcome FitWindowRows(const FitTask<Real>& task);

// Gradients of a loss through a whole fit, scores included: what the new slots have, and what is
// overwritten. At a bound a weight has none; scores and errors of held-out queries have none.
template <class Real>
struct FitGradients {
  const Real* new_bias = nullptr;    // [t]
  const Real* new_values = nullptr;  // [t, d]
  Real* queries = nullptr;           // [n, d]
  Real* keys = nullptr;              // [w, d]
  Real* values = nullptr;            // [w, d]
  Real* bias = nullptr;              // [w]
};
// The fit is made again from `score` (whose outputs are not needed) and `task` (whose scores and a
// are not read).
template <class Real>
void BackwardWindowRows(ScoreTask<Real> score, FitTask<Real> task,
                        const FitGradients<Real>& gradients);

// The same measures of kept slots as they are: w = 1, V' = V; t may be 0. Reads no bias and no
// bounds, writes nothing.
template <class Real>
FitOutcome MeasureKeptRows(const FitTask<Real>& task);

}  // namespace palimpsest::compaction
