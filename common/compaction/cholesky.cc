#include "common/compaction/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/compaction/dot.h"

// Letters: t unknowns, L the factor [t, t], B right-hand sides [t, n].
namespace palimpsest::compaction {
namespace {

// Column panel [t, Vectors registers] of B, whose rows are n apart. `Rows` rows from `row` on take
// in those of [begin, end), which are solved: B_row -= sum_j l(row, j) B_j.
template <int Rows, int Vectors, class Factor>
inline void TakeIn(const Factor& l, int row, int begin, int end, double* b, int n) {
  Doubles sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) sum[r][v] = Load(b + (row + r) * n + v * kLanes);
  }
  for (int j = begin; j < end; ++j) {
    for (int v = 0; v < Vectors; ++v) {
      const Doubles other = Load(b + j * n + v * kLanes);
      for (int r = 0; r < Rows; ++r) sum[r][v] -= l(row + r, j) * other;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) Store(sum[r][v], b + (row + r) * n + v * kLanes);
  }
}

template <int Vectors>
inline void Divide(double* row, double by) {
  const double inverse = 1.0 / by;
  for (int v = 0; v < Vectors; ++v) Store(Load(row + v * kLanes) * inverse, row + v * kLanes);
}

// L L' X = B for one panel, two rows at a time.
template <int Vectors>
void SolvePanel(const double* l, int t, double* b, int n) {
  // Below the diagonal L, above it L'.
  const auto factor = [l, t](int i, int j) { return l[static_cast<size_t>(i) * t + j]; };
  int i = 0;
  for (; i + 2 <= t; i += 2) {
    TakeIn<2, Vectors>(factor, i, 0, i, b, n);
    Divide<Vectors>(b + i * n, factor(i, i));
    TakeIn<1, Vectors>(factor, i + 1, i, i + 1, b, n);
    Divide<Vectors>(b + (i + 1) * n, factor(i + 1, i + 1));
  }
  if (i < t) {
    TakeIn<1, Vectors>(factor, i, 0, i, b, n);
    Divide<Vectors>(b + i * n, factor(i, i));
  }
  i = t;
  for (; i >= 2; i -= 2) {
    TakeIn<2, Vectors>(factor, i - 2, i, t, b, n);
    Divide<Vectors>(b + (i - 1) * n, factor(i - 1, i - 1));
    TakeIn<1, Vectors>(factor, i - 2, i - 1, i, b, n);
    Divide<Vectors>(b + (i - 2) * n, factor(i - 2, i - 2));
  }
  if (i == 1) {
    TakeIn<1, Vectors>(factor, 0, 1, t, b, n);
    Divide<Vectors>(b, factor(0, 0));
  }
}

// L L' x = b for one column that lies together.
void SolveColumn(const double* l, int t, double* b) {
  for (int i = 0; i < t; ++i) {
    const double* row = l + static_cast<size_t>(i) * t;
    b[i] = (b[i] - Dot(row, b, i)) / row[i];
  }
  for (int i = t - 1; i >= 0; --i) {
    const double* row = l + static_cast<size_t>(i) * t;
    const double x = b[i] /= row[i];
    int j = 0;
    for (; j + kLanes <= i; j += kLanes) Store(Load(b + j) - x * Load(row + j), b + j);
    for (; j < i; ++j) b[j] -= x * row[j];
  }
}

// Rows [k, k + Rows) of what becomes U take in rows [begin, k) of U: a_k -= sum_j U(j, k) U_j. Of
// their columns those from k on count; up to three before may be changed, too.
template <int Rows>
void EliminateAbove(double* a, int t, int k, int begin) {
  const auto factor = [a, t](int i, int j) { return a[static_cast<size_t>(j) * t + i]; };
  int c = t - (t - k + kLanes - 1) / kLanes * kLanes;
  if (c < 0) {  // one of the first three rows: no room before it
    for (int r = k; r < k + Rows; ++r) {
      for (int j = begin; j < k; ++j) {
        for (int i = k; i < t; ++i) a[r * t + i] -= factor(r, j) * a[j * t + i];
      }
    }
    return;
  }
  for (; c + 4 * kLanes <= t; c += 4 * kLanes) TakeIn<Rows, 4>(factor, k, begin, k, a + c, t);
  for (; c < t; c += kLanes) TakeIn<Rows, 1>(factor, k, begin, k, a + c, t);
}

void FinishRow(double* a, int t, int k, double floor) {
  double* row = a + static_cast<size_t>(k) * t;
  const double pivot = std::sqrt(row[k] > floor ? row[k] : floor);
  row[k] = pivot;
  const double inverse = 1.0 / pivot;
  for (int i = k + 1; i < t; ++i) row[i] *= inverse;
}

}  // namespace

void CholeskyInPlace(std::span<double> a, int t, double floor) {
  // Row by row of U = L', as one eliminates: whole rows are taken in, nothing is summed across.
  int k = 0;
  for (; k + 2 <= t; k += 2) {
    EliminateAbove<2>(a.data(), t, k, 0);
    FinishRow(a.data(), t, k, floor);
    EliminateAbove<1>(a.data(), t, k + 1, k);
    FinishRow(a.data(), t, k + 1, floor);
  }
  if (k < t) {
    EliminateAbove<1>(a.data(), t, k, 0);
    FinishRow(a.data(), t, k, floor);
  }
  for (int i = 0; i < t; ++i) {
    for (int j = 0; j < i; ++j)
      a[static_cast<size_t>(i) * t + j] = a[static_cast<size_t>(j) * t + i];
  }
}

void CholeskySolve(std::span<const double> l, int t, std::span<double> b, int columns) {
  int c = 0;
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes)
    SolvePanel<4>(l.data(), t, b.data() + c, columns);
  for (; c + kLanes <= columns; c += kLanes) SolvePanel<1>(l.data(), t, b.data() + c, columns);
  if (columns == 1) return SolveColumn(l.data(), t, b.data());
  for (; c < columns; ++c) {
    std::vector<double> column(t);
    for (int i = 0; i < t; ++i) column[i] = b[static_cast<size_t>(i) * columns + c];
    SolveColumn(l.data(), t, column.data());
    for (int i = 0; i < t; ++i) b[static_cast<size_t>(i) * columns + c] = column[i];
  }
}

void SolveInPlace(std::span<double> a, int t, std::span<double> b, int columns) {
  double trace = 0;
  for (int i = 0; i < t; ++i) trace += a[static_cast<size_t>(i) * t + i];
  CholeskyInPlace(a, t, 1e-15 * trace / std::max(t, 1) + 1e-300);
  CholeskySolve(a, t, b, columns);
}

}  // namespace palimpsest::compaction
