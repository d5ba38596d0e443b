// Compiled for AVX-512 F (CMakeLists.txt): nothing here may run on another processor, so who asks
// for it stands elsewhere (panels.h).
#include "common/attention/native_multiply.h"

#include <immintrin.h>

namespace palimpsest::attention {
namespace {

constexpr int kFloats = 16;  // of a register: a panel is two

// c [Rows, panel] += a [Rows, k] b [k, panel], held in registers over k.
template <int Rows>
inline void Tile(const PanelProduct<float>& p, const float* a, const float* b, float* c) {
  __m512 sum[Rows][2];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 2; ++v) sum[r][v] = _mm512_loadu_ps(c + r * p.c_stride + v * kFloats);
  }
  for (int l = 0; l < p.k; ++l) {
    const __m512 row[2] = {_mm512_loadu_ps(b + l * kPanel),
                           _mm512_loadu_ps(b + l * kPanel + kFloats)};
    for (int r = 0; r < Rows; ++r) {
      const __m512 factor = _mm512_set1_ps(a[r * p.a_stride + l * p.a_step]);
      for (int v = 0; v < 2; ++v) sum[r][v] = _mm512_fmadd_ps(factor, row[v], sum[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(c + r * p.c_stride + v * kFloats, sum[r][v]);
  }
}

}  // namespace

void MultiplyAddNatively(const PanelProduct<float>& p) {
  for (int j = 0; j < p.n; j += kPanel) {
    const float* b = p.b + j * p.k;
    const auto rows = [&](auto tile, int i) {
      tile(p, p.a + i * p.a_stride, b, p.c + i * p.c_stride + j);
    };
    int i = 0;
    for (; i + 8 <= p.m; i += 8) rows(Tile<8>, i);
    for (; i + 4 <= p.m; i += 4) rows(Tile<4>, i);
    for (; i < p.m; ++i) rows(Tile<1>, i);
  }
}

}  // namespace palimpsest::attention
