#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <initializer_list>

#include "common/base/bfloat16.h"

// Eight floats at a time, as the kernels of model and attention use them: a register of the
// x86-64-v3 baseline. Every operation is the same on each lane whatever stands in the others, and
// in the same order wherever it is inlined.
namespace palimpsest {

inline constexpr int kLanes = 8;
typedef float Vector __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

// From and to addresses of any alignment.
inline Vector LoadVector(const float* x) { return std::bit_cast<Vector>(_mm256_loadu_ps(x)); }
inline Vector LoadVector(const BFloat16* x) {
  typedef uint16_t Halves __attribute__((vector_size(16), aligned(2)));
  const Halves halves = *reinterpret_cast<const Halves*>(x);
  return std::bit_cast<Vector>(__builtin_convertvector(halves, Ints) << 16);
}
inline void StoreVector(Vector x, float* to) { _mm256_storeu_ps(to, std::bit_cast<__m256>(x)); }
// As Narrow rounds.
inline void StoreVector(Vector x, BFloat16* to) {
  typedef uint32_t Words __attribute__((vector_size(32)));
  typedef uint16_t Halves __attribute__((vector_size(16), aligned(2)));
  const auto bits = std::bit_cast<Words>(x);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words kept = x == x ? rounded : bits >> 16 | 0x40;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(kept, Halves);
}
// What is left of x when it is stored as Stored.
template <class Stored>
inline Vector RoundedVector(Vector x) {
  Stored stored[kLanes];
  StoreVector(x, stored);
  return LoadVector(stored);
}

// a b + c, rounded once.
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) {
  return std::bit_cast<Vector>(_mm256_fmadd_ps(std::bit_cast<__m256>(a), std::bit_cast<__m256>(b),
                                               std::bit_cast<__m256>(c)));
}

inline float Sum(Vector x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// Sum of each of eight, in its order.
inline Vector SumEach(const Vector (&x)[kLanes]) {
  __m256 folded[kLanes / 2];  // of x[i] below, of x[i + 4] above: (0 + 4, 1 + 5, 2 + 6, 3 + 7)
  for (int i = 0; i < kLanes / 2; ++i) {
    const auto low = std::bit_cast<__m256>(x[i]), high = std::bit_cast<__m256>(x[i + 4]);
    folded[i] = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                              _mm256_permute2f128_ps(low, high, 0x31));
  }
  const auto halved = [](__m256 a, __m256 b) {  // (a02, a13, b02, b13)
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  };
  const __m256 left = halved(folded[0], folded[1]), right = halved(folded[2], folded[3]);
  return std::bit_cast<Vector>(
      _mm256_add_ps(_mm256_shuffle_ps(left, right, 0x88), _mm256_shuffle_ps(left, right, 0xdd)));
}

// e^x for x <= 0 to 2 ulp; 0 below -87. x = n ln 2 + r, |r| <= ln(2)/2, e^r by its series.
inline Vector ExpNegative(Vector x) {
  const Vector zero = {};
  const Vector clamped = x < -87.0f ? zero - 87.0f : x;
  const Ints n = __builtin_convertvector(clamped * 1.44269504088896341f - 0.5f, Ints);  // truncates
  const Vector whole = __builtin_convertvector(n, Vector);
  const Vector r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vector series = zero + 1.9841269841e-4f;
  for (const float term :
       {1.3888888889e-3f, 8.3333333333e-3f, 4.1666666667e-2f, 1.6666666667e-1f, 0.5f, 1.0f, 1.0f})
    series = MultiplyAdd(series, r, zero + term);
  const Vector power = std::bit_cast<Vector>((n + 127) << 23);
  return x < -87.0f ? zero : series * power;
}

}  // namespace palimpsest
