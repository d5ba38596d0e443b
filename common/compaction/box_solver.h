#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest::compaction {

// argmin_w  1/2 w'Hw - c'w   subject to  lower <= w_j <= upper,   H [t, t] symmetric positive
// definite, fp64.
struct BoxProblem {
  std::span<const double> h;  // [t, t] row-major
  std::span<const double> c;  // [t]
  int t = 0;
  double lower = 0;
  double upper = 0;
  double tolerance = 0;  // stop at this KKT residual; >= 0
};

struct BoxSolution {
  std::vector<double> w;          // [t]
  std::vector<uint8_t> at_bound;  // [t] 1 where a bound holds w_j
  double kkt_residual = 0;        // max_j |gradient_j|, one-sided at the bounds
  int solves = 0;                 // Newton systems that were solved
};

// Primal Newton on the active set (Bertsekas 1982, projected Newton): each step solves the system
// of the free weights and walks along the projected path until the objective has fallen enough.
// When 20 steps do not do (tight boxes of
// ill-conditioned systems, where they zigzag), a plain active-set walk ends it. Strictly convex, so
// the optimum is unique.
BoxSolution SolveBox(const BoxProblem& problem);

}  // namespace palimpsest::compaction
