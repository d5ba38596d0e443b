#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace palimpsest {

// e^x for x <= 0, to 2 ulp, in a form that vectorises: x = n ln 2 + r, |r| <= ln(2)/2, e^r by its
// series. Below -87 it is 0.
inline float ExpNegative(float x) {
  const float clamped = std::max(x, -87.0f);
  const float n = std::floor(clamped * 1.44269504088896341f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float series = 1.9841269841e-4f;
  series = series * r + 1.3888888889e-3f;
  series = series * r + 8.3333333333e-3f;
  series = series * r + 4.1666666667e-2f;
  series = series * r + 1.6666666667e-1f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : series * power;
}
inline double ExpNegative(double x) { return std::exp(x); }

// out [n], which may be x, becomes the softmax of x [n], n >= 1. Returns the log of what the
// exponentials of x sum to. For files that are compiled with -fopenmp-simd.
template <class Real>
Real SoftmaxRow(const Real* x, int n, Real* out) {
  const Real most = *std::max_element(x, x + n);
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    out[j] = ExpNegative(x[j] - most);
    sum += out[j];
  }
  const Real inverse = 1 / sum;
  for (int j = 0; j < n; ++j) out[j] *= inverse;
  return most + std::log(sum);
}

}  // namespace palimpsest
