#pragma once

// Products of fp32 matrices for the segments of a plan in registers of AVX-512. Only
// segment_kernel.cc calls this, where it has found AVX-512 F.
namespace palimpsest::attention {

// c [m, n] += a [m, k] b [k, n], row-major. Every sum goes through k in order, each step rounded
// once: the bits do not depend on the width of registers.
void MultiplyAddNatively(int m, int n, int k, const float* a, const float* b, float* c);

}  // namespace palimpsest::attention
