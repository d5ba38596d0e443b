#pragma once

#include <algorithm>
#include <type_traits>

#include "common/attention/native_multiply.h"
#include "common/base/bfloat16.h"
#include "common/base/processor.h"

// Products of matrices for the segments of a plan. The right side [k, n] stands in panels of 32
// columns, each [k, 32] and contiguous, zeros behind column n: read from first to last, whatever n
// is.
namespace palimpsest::attention {

// Elements of a matrix [k, n] in panels.
constexpr int PanelsSize(int k, int n) { return k * InPanels(n); }

// Panels of the matrix whose row l is rows(l) [n], of any type that Widen takes.
template <class Real, class Rows>
void PackRows(int k, int n, const Rows& rows, Real* __restrict panels) {
  for (int l = 0; l < k; ++l) {
    const auto* from = rows(l);
    for (int j = 0; j < n; j += kPanel) {
      Real* to = panels + j * k + l * kPanel;
      const int count = std::min(kPanel, n - j);
      for (int i = 0; i < count; ++i) to[i] = Widen(from[j + i]);
      std::fill(to + count, to + kPanel, Real{0});
    }
  }
}

// Panels of the matrix whose column j is columns(j) [k].
template <class Real, class Columns>
void PackColumns(int k, int n, const Columns& columns, Real* __restrict panels) {
  for (int j = 0; j < InPanels(n); ++j) {
    Real* to = panels + j / kPanel * kPanel * k + j % kPanel;
    if (j < n) {
      const auto* from = columns(j);
      for (int l = 0; l < k; ++l) to[l * kPanel] = Widen(from[l]);
    } else {
      for (int l = 0; l < k; ++l) to[l * kPanel] = Real{0};
    }
  }
}

// 32 bytes of Real, the widest register of the x86-64-v3 baseline.
template <class Real>
struct Lanes {
  typedef Real Type __attribute__((vector_size(32), aligned(alignof(Real))));
  static constexpr int kCount = 32 / sizeof(Real);
};

// c [Rows, 2 registers] += a [Rows, k] b [k, ..], held in registers over k.
template <class Real, int Rows>
inline void MultiplyTile(const PanelProduct<Real>& p, const Real* __restrict a,
                         const Real* __restrict b, Real* __restrict c) {
  using V = typename Lanes<Real>::Type;
  constexpr int kLanes = Lanes<Real>::kCount;
  V sum[Rows][2];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 2; ++v)
      sum[r][v] = *reinterpret_cast<const V*>(c + r * p.c_stride + v * kLanes);
  }
  for (int l = 0; l < p.k; ++l) {
    V row[2];
    for (int v = 0; v < 2; ++v) row[v] = *reinterpret_cast<const V*>(b + l * kPanel + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < 2; ++v) sum[r][v] += a[r * p.a_stride + l * p.a_step] * row[v];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 2; ++v) *reinterpret_cast<V*>(c + r * p.c_stride + v * kLanes) = sum[r][v];
  }
}

// c += a b: every sum goes through k in order, each step rounded once, so that wide registers and
// narrow ones give the same bits.
template <class Real>
void MultiplyAdd(const PanelProduct<Real>& p) {
  if constexpr (std::is_same_v<Real, float>) {
    if (HasWideRegisters()) return MultiplyAddNatively(p);
  }
  for (int j = 0; j < p.n; j += 2 * Lanes<Real>::kCount) {
    const Real* b = p.b + j / kPanel * kPanel * p.k + j % kPanel;
    const auto rows = [&](auto tile, int i) {
      tile(p, p.a + i * p.a_stride, b, p.c + i * p.c_stride + j);
    };
    int i = 0;
    for (; i + 4 <= p.m; i += 4) rows(MultiplyTile<Real, 4>, i);
    for (; i < p.m; ++i) rows(MultiplyTile<Real, 1>, i);
  }
}

}  // namespace palimpsest::attention
