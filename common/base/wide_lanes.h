#pragma once

#include <immintrin.h>

#include "common/base/bfloat16.h"

// For files that are compiled for AVX-512 BF16, and for those alone. static: each such file has its
// own, so that the linker never takes one of them for a file that every processor runs.
namespace palimpsest {

inline constexpr int kPairs = 32;  // bf16 of a register

static inline __m512bh LoadPairs(const BFloat16* from) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
}
// The first `mask` says of it, zeros behind.
static inline __m512bh LoadPairs(const BFloat16* from, __mmask32 mask) {
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, from));
}

// The sums over the lanes of four registers, each in the same order.
static inline __m128 SumEach(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

}  // namespace palimpsest
