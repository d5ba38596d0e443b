#pragma once

#include <span>

namespace palimpsest::compaction {

// Dense symmetric positive definite systems in fp64, row-major, of the sizes an event needs (t up
// to a few hundred). Single-threaded: callers run many problems side by side.

// a [t, t], of which the upper triangle is read -> its Cholesky factor L in place, and L' above the
// diagonal.
// A pivot that is not positive (semi-definite to rounding) is replaced by `floor` > 0, so that the
// result is always finite.
void CholeskyInPlace(std::span<double> a, int t, double floor);

// Solves (L L') x = b, L as CholeskyInPlace leaves it, for `columns` right-hand sides; b [t,
// columns] is overwritten by x.
void CholeskySolve(std::span<const double> l, int t, std::span<double> b, int columns);

// Both: b [t, columns] becomes a^-1 b, a its factor. Pivots are at least 1e-15 of the mean
// diagonal.
void SolveInPlace(std::span<double> a, int t, std::span<double> b, int columns);

}  // namespace palimpsest::compaction
