#pragma once

#include <cstdint>

#include "common/base/bfloat16.h"

// Products of bf16 rows by the processor's own instructions for them (AVX-512 BF16): pairs of bf16
// are multiplied and added to fp32. Subnormal sums count as zero. Only row_kernels.cc calls this,
// where it has found AVX-512 F, BW, DQ and BF16.
namespace palimpsest::model {

// y [M, N] = x w' for outputs [begin, end): w [N, K], x [M, K] row-major, both as they are stored;
// y_stride floats from row to row. An output's bits depend on its rows of x and w alone.
void MultiplyRowsNatively(const BFloat16* w, const BFloat16* x, int64_t m, int64_t k, int64_t begin,
                          int64_t end, float* y, int64_t y_stride);

}  // namespace palimpsest::model
