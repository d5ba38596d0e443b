#pragma once

namespace palimpsest::compaction {

// Four doubles: a register of the x86-64-v3 baseline, at any address.
inline constexpr int kLanes = 4;
typedef double Doubles __attribute__((vector_size(32), aligned(8), may_alias));

inline const Doubles& At(const double* x) { return *reinterpret_cast<const Doubles*>(x); }
inline Doubles& At(double* x) { return *reinterpret_cast<Doubles*>(x); }
inline double Sum(const Doubles& x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// a [n] times b [n], in one order for each n.
inline double Dot(const double* a, const double* b, int n) {
  constexpr int kChains = 4;  // more than one addition under way
  Doubles sum[kChains] = {};
  int j = 0;
  for (; j + kChains * kLanes <= n; j += kChains * kLanes) {
    for (int c = 0; c < kChains; ++c) sum[c] += At(a + j + c * kLanes) * At(b + j + c * kLanes);
  }
  double whole = Sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; j < n; ++j) whole += a[j] * b[j];
  return whole;
}

}  // namespace palimpsest::compaction
