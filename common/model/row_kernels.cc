#include "common/model/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common/base/lanes.h"
#include "common/base/processor.h"
#include "common/model/native_products.h"

namespace palimpsest::model {
namespace {

constexpr int kGroup = 16;             // inputs that are widened together
constexpr int kQuad = 4;               // outputs of a tile
constexpr int64_t kPanel = 64 * 1024;  // floats of x that are gone over once per quad: they fit L2

// The 16 weights at `w` as two registers, in the order of PackRow.
inline void LoadGroup(const float* w, Vector& first, Vector& second) {
  first = LoadVector(w);
  second = LoadVector(w + kLanes);
}
inline void LoadGroup(const BFloat16* w, Vector& even, Vector& odd) {
  Ints pairs;
  std::memcpy(&pairs, w, sizeof(pairs));  // w is aligned to its own two bytes only
  even = std::bit_cast<Vector>(pairs << 16);
  odd = std::bit_cast<Vector>(pairs & static_cast<int32_t>(0xffff0000));
}

// Sums of `Outputs` rows of w against `Rows` rows of x over `groups` groups of 16.
template <class Stored, int Outputs, int Rows>
inline void Tile(const Stored* w, int64_t w_stride, const float* x, int64_t x_stride,
                 int64_t groups, Vector (&sum)[Outputs][Rows]) {
  for (int64_t g = 0; g < groups; ++g) {
    Vector first[Rows], second[Rows];
    for (int r = 0; r < Rows; ++r) {
      first[r] = LoadVector(x + r * x_stride + g * kGroup);
      second[r] = LoadVector(x + r * x_stride + g * kGroup + kLanes);
    }
    for (int o = 0; o < Outputs; ++o) {
      Vector a, b;
      LoadGroup(w + o * w_stride + g * kGroup, a, b);
      for (int r = 0; r < Rows; ++r) sum[o][r] = MultiplyAdd(a, first[r], sum[o][r]);
      for (int r = 0; r < Rows; ++r) sum[o][r] = MultiplyAdd(b, second[r], sum[o][r]);
    }
  }
}

// `Outputs` outputs from n on, `Rows` rows from m on. What is left of K after whole groups stands
// in `rest` [Outputs, 16], padded with zeros.
template <class Stored, int Outputs, int Rows>
inline void Block(const Stored* w, int64_t w_stride, const Stored* rest, const float* x,
                  int64_t x_stride, int64_t groups, float* y, int64_t y_stride) {
  Vector sum[Outputs][Rows] = {};
  Tile<Stored, Outputs, Rows>(w, w_stride, x, x_stride, groups, sum);
  if (rest) Tile<Stored, Outputs, Rows>(rest, kGroup, x + groups * kGroup, x_stride, 1, sum);
  for (int o = 0; o < Outputs; ++o) {
    for (int r = 0; r < Rows; ++r) y[r * y_stride + o] = Sum(sum[o][r]);
  }
}

template <class Stored, int Outputs>
void AllRows(const Stored* w, int64_t w_stride, const Stored* rest, const float* x,
             int64_t x_stride, int64_t groups, int64_t rows, float* y, int64_t y_stride) {
  int64_t m = 0;
  for (; m + 3 <= rows; m += 3)
    Block<Stored, Outputs, 3>(w, w_stride, rest, x + m * x_stride, x_stride, groups,
                              y + m * y_stride, y_stride);
  for (; m + 2 <= rows; m += 2)
    Block<Stored, Outputs, 2>(w, w_stride, rest, x + m * x_stride, x_stride, groups,
                              y + m * y_stride, y_stride);
  if (m < rows)
    Block<Stored, Outputs, 1>(w, w_stride, rest, x + m * x_stride, x_stride, groups,
                              y + m * y_stride, y_stride);
}

// `Outputs` rows of w, widened once for many rows of x.
template <int Outputs>
const float* Widened(const BFloat16* w, int64_t w_stride, int64_t groups, std::vector<float>& to) {
  to.resize(static_cast<size_t>(Outputs) * groups * kGroup);
  for (int o = 0; o < Outputs; ++o) {
    for (int64_t g = 0; g < groups; ++g) {
      Vector even, odd;
      LoadGroup(w + o * w_stride + g * kGroup, even, odd);
      float* at = to.data() + (o * groups + g) * kGroup;
      StoreVector(even, at);
      StoreVector(odd, at + kLanes);
    }
  }
  return to.data();
}

template <class Stored, int Outputs>
void SumOutputs(const Product<Stored>& p, int64_t n, int64_t first, int64_t rows, float* y,
                int64_t y_stride) {
  const int64_t groups = p.k / kGroup, left = p.k % kGroup, width = PackedWidth(p.k);
  const Stored* w = p.w + n * p.k;
  const float* x = p.packed + first * width;
  Stored rest[Outputs * kGroup] = {};
  for (int o = 0; o < Outputs && left > 0; ++o)
    std::copy_n(w + o * p.k + groups * kGroup, left, rest + o * kGroup);
  float* to = y + first * y_stride + n;
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    if (rows > 3 && left == 0) {
      thread_local std::vector<float> wide;
      const float* widened = Widened<Outputs>(w, p.k, groups, wide);
      return AllRows<float, Outputs>(widened, groups * kGroup, nullptr, x, width, groups, rows, to,
                                     y_stride);
    }
  }
  AllRows<Stored, Outputs>(w, p.k, left > 0 ? rest : nullptr, x, width, groups, rows, to, y_stride);
}

// x [k] -> out [PackedWidth(k)].
template <class Stored>
void PackRow(const Stored* x, int64_t k, float* out) {
  const int64_t whole = k / kGroup * kGroup;
  if constexpr (std::is_same_v<Stored, float>) {
    std::copy_n(x, k, out);
  } else {
    for (int64_t g = 0; g < whole; g += kGroup) {
      Vector even, odd;
      LoadGroup(x + g, even, odd);
      StoreVector(even, out + g);
      StoreVector(odd, out + g + kLanes);
    }
    for (int64_t i = whole; i < k; ++i)
      out[whole + (i % 2) * kLanes + (i - whole) / 2] = Widen(x[i]);
  }
  if (whole == k) return;
  if constexpr (std::is_same_v<Stored, float>) {
    std::fill(out + k, out + whole + kGroup, 0.0f);
  } else {
    for (int64_t i = k; i < whole + kGroup; ++i)
      out[whole + (i % 2) * kLanes + (i - whole) / 2] = 0;
  }
}

template <class Stored>
void GateLanes(const Stored* gate, const Stored* up, Stored* out) {
  const Vector zero = {}, g = LoadVector(gate);
  const Vector e = ExpNegative(g < zero ? g : -g);
  const Vector silu = g * (g < zero ? e : zero + 1.0f) / (e + 1.0f);
  StoreVector(RoundedVector<Stored>(silu) * LoadVector(up), out);
}

}  // namespace

template <class Stored>
void Pack(Product<Stored>& p, std::vector<float>& to) {
  const int64_t width = PackedWidth(p.k);
  to.resize(static_cast<size_t>(p.m * width));
  for (int64_t t = 0; t < p.m; ++t) PackRow(p.x + t * p.k, p.k, to.data() + t * width);
  p.packed = to.data();
}

template <class Stored>
void Prepare(Product<Stored>& p, std::vector<float>& to) {
  if (std::is_same_v<Stored, float> || !HasBFloat16Instructions()) Pack(p, to);
}

template <class Stored>
void MultiplyRows(const Product<Stored>& p, int64_t begin, int64_t end, float* y,
                  int64_t y_stride) {
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    if (p.packed == nullptr)
      return MultiplyRowsNatively(p.w, p.x, p.m, p.k, begin, end, y, y_stride);
  }
  const int64_t panel = std::max<int64_t>(3, kPanel / PackedWidth(p.k) / 3 * 3);
  for (int64_t first = 0; first < p.m; first += panel) {
    const int64_t rows = std::min(panel, p.m - first);
    int64_t n = begin;
    if (rows == 1) {
      for (; n + 2 * kQuad <= end; n += 2 * kQuad)
        SumOutputs<Stored, 2 * kQuad>(p, n, first, rows, y, y_stride);
    }
    for (; n + kQuad <= end; n += kQuad) SumOutputs<Stored, kQuad>(p, n, first, rows, y, y_stride);
    for (; n < end; ++n) SumOutputs<Stored, 1>(p, n, first, rows, y, y_stride);
  }
}

template <class Stored>
void NormRow(const Stored* x, const Stored* weight, int64_t n, float eps, Stored* out) {
  Vector squares = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vector v = LoadVector(x + i);
    squares = MultiplyAdd(v, v, squares);
  }
  float sum = Sum(squares);
  for (; i < n; ++i) sum += Widen(x[i]) * Widen(x[i]);
  const float scale = 1 / std::sqrt(sum / static_cast<float>(n) + eps);
  for (int64_t j = 0; j < n; ++j) Narrow(Widen(x[j]) * scale * Widen(weight[j]), out + j);
}

template <class Stored>
void RotateHead(const Stored* x, const float* cos, const float* signed_sin, int d, Stored* out) {
  const int half = d / 2;
  for (int c = 0; c < d; ++c) {
    const float straight = Rounded<Stored>(Widen(x[c]) * cos[c]);
    Narrow(straight + Widen(x[c < half ? c + half : c - half]) * signed_sin[c], out + c);
  }
}

template <class Stored>
void GateRow(const Stored* gate, const Stored* up, int64_t n, Stored* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) GateLanes(gate + i, up + i, out + i);
  if (i == n) return;
  Stored rest[3][kLanes] = {};
  std::copy(gate + i, gate + n, rest[0]);
  std::copy(up + i, up + n, rest[1]);
  GateLanes(rest[0], rest[1], rest[2]);
  std::copy_n(rest[2], n - i, out + i);
}

template <class Stored>
void StoreRow(const float* sums, const Stored* bias, int64_t n, bool add, Stored* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vector sum = LoadVector(sums + i);
    if (bias != nullptr) sum += LoadVector(bias + i);
    if (add) sum = LoadVector(out + i) + RoundedVector<Stored>(sum);
    StoreVector(sum, out + i);
  }
  for (; i < n; ++i) {
    const float sum = sums[i] + (bias != nullptr ? Widen(bias[i]) : 0.0f);
    Narrow(add ? Widen(out[i]) + Rounded<Stored>(sum) : sum, out + i);
  }
}

#define PALIMPSEST_ROW_KERNELS(Stored)                                                   \
  template void Pack(Product<Stored>&, std::vector<float>&);                             \
  template void Prepare(Product<Stored>&, std::vector<float>&);                          \
  template void MultiplyRows(const Product<Stored>&, int64_t, int64_t, float*, int64_t); \
  template void NormRow(const Stored*, const Stored*, int64_t, float, Stored*);          \
  template void RotateHead(const Stored*, const float*, const float*, int, Stored*);     \
  template void GateRow(const Stored*, const Stored*, int64_t, Stored*);                 \
  template void StoreRow(const float*, const Stored*, int64_t, bool, Stored*);
PALIMPSEST_ROW_KERNELS(float)
PALIMPSEST_ROW_KERNELS(BFloat16)
#undef PALIMPSEST_ROW_KERNELS

}  // namespace palimpsest::model
