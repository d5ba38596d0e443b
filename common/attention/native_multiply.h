#pragma once

// Products of fp32 matrices in panels (panels.h) in registers of AVX-512. Only panels.h calls this,
// where it has found AVX-512 F.
namespace palimpsest::attention {

inline constexpr int kPanel = 32;  // columns

// n, or what it takes to fill the last panel.
constexpr int InPanels(int n) { return (n + kPanel - 1) / kPanel * kPanel; }

// c [m, n] += a [m, k] b [k, n]. a: rows `a_stride` apart, columns `a_step`; b: in panels; c: rows
// of InPanels(n) columns `c_stride` apart, those behind n end up as they were.
template <class Real>
struct PanelProduct {
  int m = 0, n = 0, k = 0;
  const Real* a = nullptr;
  int a_stride = 0, a_step = 1;
  const Real* b = nullptr;
  Real* c = nullptr;
  int c_stride = 0;
};

// Every sum goes through k in order, each step rounded once: the bits do not depend on the width of
// registers.
void MultiplyAddNatively(const PanelProduct<float>& product);

}  // namespace palimpsest::attention
