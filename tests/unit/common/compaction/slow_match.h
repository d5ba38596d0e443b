#pragma once

#include <cstdint>
#include <vector>

// Design section 4 for one head, in fp64 loops, without padding, batching or torch.
namespace palimpsest::compaction::testing {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

struct SlowProblem {
  Matrix keys, values, queries;  // [w][d], [w][d], [n][d]
  Row bias;                      // [w]
  std::vector<uint8_t> fitted;   // [n] 1 = listened to
  std::vector<uint8_t> held;     // [n] 1 = held out
  std::vector<int> kept;         // [t] ascending
  double scale = 1, mu = 1e-2, lambda = 1e-2, lower = 0, upper = 0;
  // The known mistake: the fit's target is the window's share of a softmax over everything, in
  // which each query leaves this log-mass [n] to the rest. Empty: as the design says.
  Row rest_log_mass = {};
};

struct SlowFit {
  Row bias;       // [t]
  Matrix values;  // [t][d]
  double mass_error = 0, output_error = 0, held_mass_error = 0, held_output_error = 0;
};
SlowFit SlowMatch(const SlowProblem& p);

// argmin 1/2 w'Hw - c'w in the box by coordinate descent until nothing moves by more than 1e-14.
Row SlowBox(const Matrix& h, const Row& c, double lower, double upper);

// A^-1 B by Gaussian elimination with row pivots.
Matrix SlowSolve(Matrix a, Matrix b);

// The local softmax [n][w] and the scores it came from.
Matrix SlowScores(const SlowProblem& p);
Matrix SlowSoftmax(const Matrix& scores);

}  // namespace palimpsest::compaction::testing
