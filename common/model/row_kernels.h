#pragma once

#include <cstdint>
#include <vector>

#include "common/base/bfloat16.h"

// The decoder's work on few rows without autograd: products with the weights where they stand and
// the small operations between them, fused. No torch. Every result of a row depends on this row and
// the weights only, in one order of summation: not on how many rows there are, nor on which thread
// computes what. Stored is float or BFloat16: activations and weights as they are kept; arithmetic
// is fp32, rounded to Stored where the operations of the training path round.
// Letters: M rows, K inputs, N outputs, H heads, d head width.
namespace palimpsest::model {

// x w', all row-major. Without `packed` it is the processor that multiplies bf16.
template <class Stored>
struct Product {
  const Stored* w = nullptr;  // [N, K]
  const Stored* x = nullptr;  // [M, K]
  int64_t m = 0, k = 0;
  const float* packed = nullptr;  // x as other processors read it, see Pack
};

// Rows of x for processors that have no products of bf16: fp32, K padded with zeros to a multiple
// of 16, and each 16 in the order 0 2 .. 14 1 3 .. 15 when the weights are bf16 (a bf16 pair is
// widened in place). `product` points to them then, in `to`.
inline int64_t PackedWidth(int64_t k) { return (k + 15) / 16 * 16; }
template <class Stored>
void Pack(Product<Stored>& product, std::vector<float>& to);

// Pack, where this processor needs it for such weights.
template <class Stored>
void Prepare(Product<Stored>& product, std::vector<float>& to);

// y [M, N] fp32 for n in [begin, end), of a product that was prepared; y_stride floats from row to
// row.
template <class Stored>
void MultiplyRows(const Product<Stored>& product, int64_t begin, int64_t end, float* y,
                  int64_t y_stride);

// out = x / sqrt(mean(x^2) + eps) * weight, all [n].
template <class Stored>
void NormRow(const Stored* x, const Stored* weight, int64_t n, float eps, Stored* out);

// One head [d]: half-split rotation x cos + swap_halves(x) signed_sin, cos and signed_sin [d] as
// Stored holds them.
template <class Stored>
void RotateHead(const Stored* x, const float* cos, const float* signed_sin, int d, Stored* out);

// out = silu(gate) * up, all [n].
template <class Stored>
void GateRow(const Stored* gate, const Stored* up, int64_t n, Stored* out);

// out = sums + bias, or with `add` out + (sums + bias), all [n], each rounded as by itself; no
// bias: null.
template <class Stored>
void StoreRow(const float* sums, const Stored* bias, int64_t n, bool add, Stored* out);

}  // namespace palimpsest::model
