#include "common/compaction/cholesky.h"

#include <cmath>

namespace palimpsest::compaction {

void CholeskyInPlace(std::span<double> a, int t, double floor) {
  // Right-looking by columns: the inner loop runs along rows of the trailing block, contiguous in
  // memory.
  for (int k = 0; k < t; ++k) {
    double* row_k = a.data() + static_cast<size_t>(k) * t;
    for (int j = 0; j < k; ++j) row_k[k] -= row_k[j] * row_k[j];
    const double pivot = std::sqrt(row_k[k] > floor ? row_k[k] : floor);
    row_k[k] = pivot;
    for (int i = k + 1; i < t; ++i) {
      double* row_i = a.data() + static_cast<size_t>(i) * t;
      double sum = row_i[k];
      for (int j = 0; j < k; ++j) sum -= row_i[j] * row_k[j];
      row_i[k] = sum / pivot;
    }
  }
}

void CholeskySolve(std::span<const double> l, int t, std::span<double> b, int columns) {
  for (int i = 0; i < t; ++i) {  // L y = b
    double* row = b.data() + static_cast<size_t>(i) * columns;
    for (int j = 0; j < i; ++j) {
      const double f = l[static_cast<size_t>(i) * t + j];
      const double* other = b.data() + static_cast<size_t>(j) * columns;
      for (int c = 0; c < columns; ++c) row[c] -= f * other[c];
    }
    const double inverse = 1.0 / l[static_cast<size_t>(i) * t + i];
    for (int c = 0; c < columns; ++c) row[c] *= inverse;
  }
  for (int i = t - 1; i >= 0; --i) {  // L' x = y
    double* row = b.data() + static_cast<size_t>(i) * columns;
    const double inverse = 1.0 / l[static_cast<size_t>(i) * t + i];
    for (int c = 0; c < columns; ++c) row[c] *= inverse;
    for (int j = 0; j < i; ++j) {
      const double f = l[static_cast<size_t>(i) * t + j];
      double* other = b.data() + static_cast<size_t>(j) * columns;
      for (int c = 0; c < columns; ++c) other[c] -= f * row[c];
    }
  }
}

}  // namespace palimpsest::compaction
