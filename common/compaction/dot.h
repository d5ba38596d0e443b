#pragma once

#include <immintrin.h>

#include <bit>

namespace palimpsest::compaction {

// Four doubles: a register of the x86-64-v3 baseline.
inline constexpr int kLanes = 4;
typedef double Doubles __attribute__((vector_size(32)));

// From and to addresses of any alignment.
inline Doubles Load(const double* x) { return std::bit_cast<Doubles>(_mm256_loadu_pd(x)); }
inline void Store(Doubles x, double* to) { _mm256_storeu_pd(to, std::bit_cast<__m256d>(x)); }
inline double Sum(Doubles x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// a [n] times b [n], in one order for each n.
inline double Dot(const double* a, const double* b, int n) {
  constexpr int kChains = 4;  // more than one addition under way
  Doubles sum[kChains] = {};
  int j = 0;
  for (; j + kChains * kLanes <= n; j += kChains * kLanes) {
    for (int c = 0; c < kChains; ++c) sum[c] += Load(a + j + c * kLanes) * Load(b + j + c * kLanes);
  }
  double whole = Sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; j < n; ++j) whole += a[j] * b[j];
  return whole;
}

}  // namespace palimpsest::compaction
