// Compiled for AVX-512 F (CMakeLists.txt): nothing here may run on another processor, so who asks
// for it stands elsewhere (segment_kernel.cc).
#include "common/attention/native_multiply.h"

#include <immintrin.h>

namespace palimpsest::attention {
namespace {

constexpr int kFloats = 16;  // of a register

// The columns of a tile: whole registers, and in the last one those that `mask` says.
template <int Vectors>
struct Columns {
  __mmask16 mask;

  __m512 Load(const float* from, int v) const {
    return v + 1 < Vectors ? _mm512_loadu_ps(from + v * kFloats)
                           : _mm512_maskz_loadu_ps(mask, from + v * kFloats);
  }
  void Store(__m512 x, float* to, int v) const {
    if (v + 1 < Vectors) {
      _mm512_storeu_ps(to + v * kFloats, x);
    } else {
      _mm512_mask_storeu_ps(to + v * kFloats, mask, x);
    }
  }
};

// c [Rows, Vectors registers] += a [Rows, k] b [k, ...], held in registers over k. Leading
// dimensions: k for a, n for b and c.
template <int Rows, int Vectors>
inline void Tile(Columns<Vectors> columns, int n, int k, const float* a, const float* b, float* c) {
  __m512 sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) sum[r][v] = columns.Load(c + r * n, v);
  }
  for (int l = 0; l < k; ++l) {
    __m512 row[Vectors];
    for (int v = 0; v < Vectors; ++v) row[v] = columns.Load(b + l * n, v);
    for (int r = 0; r < Rows; ++r) {
      const __m512 factor = _mm512_set1_ps(a[r * k + l]);
      for (int v = 0; v < Vectors; ++v) sum[r][v] = _mm512_fmadd_ps(factor, row[v], sum[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) columns.Store(sum[r][v], c + r * n, v);
  }
}

template <int Vectors>
void AllRows(Columns<Vectors> columns, int m, int n, int k, const float* a, const float* b,
             float* c) {
  int i = 0;
  for (; i + 8 <= m; i += 8) Tile<8, Vectors>(columns, n, k, a + i * k, b, c + i * n);
  for (; i + 4 <= m; i += 4) Tile<4, Vectors>(columns, n, k, a + i * k, b, c + i * n);
  for (; i < m; ++i) Tile<1, Vectors>(columns, n, k, a + i * k, b, c + i * n);
}

}  // namespace

void MultiplyAddNatively(int m, int n, int k, const float* a, const float* b, float* c) {
  constexpr __mmask16 kAll = 0xffff;
  int j = 0;
  for (; j + 2 * kFloats <= n; j += 2 * kFloats)
    AllRows<2>(Columns<2>{kAll}, m, n, k, a, b + j, c + j);
  for (; j < n; j += kFloats) {
    const int left = n - j;
    const auto mask = static_cast<__mmask16>(left < kFloats ? (1u << left) - 1 : kAll);
    AllRows<1>(Columns<1>{mask}, m, n, k, a, b + j, c + j);
  }
}

}  // namespace palimpsest::attention
