#include "common/attention/segment_kernel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/attention/native_multiply.h"
#include "common/base/processor.h"

namespace palimpsest::attention {
namespace {

constexpr int kFewRows =
    8;  // query rows of a segment and KV head below which gathering keys does not pay

// e^x for x <= 0, to 2 ulp, in a form that vectorises: x = n ln 2 + r, |r| <= ln(2)/2, e^r by its
// series. Below -87 it is 0.
inline float ExpNegative(float x) {
  const float clamped = std::max(x, -87.0f);
  const float n = std::floor(clamped * 1.44269504088896341f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float series = 1.9841269841e-4f;
  series = series * r + 1.3888888889e-3f;
  series = series * r + 8.3333333333e-3f;
  series = series * r + 4.1666666667e-2f;
  series = series * r + 1.6666666667e-1f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : series * power;
}
inline double ExpNegative(double x) { return std::exp(x); }

// 32 bytes of Real, the widest register of the x86-64-v3 baseline.
template <class Real>
struct Lanes {
  typedef Real Type __attribute__((vector_size(32), aligned(alignof(Real))));
  static constexpr int kCount = 32 / sizeof(Real);
};

// c [Rows, Vectors * lanes] += a [Rows, k] b [k, ...], held in registers over k. Leading
// dimensions: k for a, n for b and c.
template <class Real, int Rows, int Vectors>
inline void MultiplyTile(int n, int k, const Real* __restrict a, const Real* __restrict b,
                         Real* __restrict c) {
  using V = typename Lanes<Real>::Type;
  constexpr int kLanes = Lanes<Real>::kCount;
  V sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = *reinterpret_cast<const V*>(c + r * n + v * kLanes);
  }
  for (int l = 0; l < k; ++l) {
    V row[Vectors];
    for (int v = 0; v < Vectors; ++v) row[v] = *reinterpret_cast<const V*>(b + l * n + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) sum[r][v] += a[r * k + l] * row[v];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) *reinterpret_cast<V*>(c + r * n + v * kLanes) = sum[r][v];
  }
}

template <class Real, int Rows>
void MultiplyRows(int n, int k, const Real* a, const Real* b, Real* c) {
  constexpr int kLanes = Lanes<Real>::kCount;
  int j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) MultiplyTile<Real, Rows, 2>(n, k, a, b + j, c + j);
  for (; j + kLanes <= n; j += kLanes) MultiplyTile<Real, Rows, 1>(n, k, a, b + j, c + j);
  for (; j < n; ++j) {
    for (int r = 0; r < Rows; ++r) {
      Real sum = c[r * n + j];
      for (int l = 0; l < k; ++l) sum += a[r * k + l] * b[l * n + j];
      c[r * n + j] = sum;
    }
  }
}

// c [m, n] += a [m, k] b [k, n]: the same bits with wide registers and without.
template <class Real>
void MultiplyAdd(int m, int n, int k, const Real* a, const Real* b, Real* c) {
  if constexpr (std::is_same_v<Real, float>) {
    if (HasWideRegisters()) return MultiplyAddNatively(m, n, k, a, b, c);
  }
  int i = 0;
  for (; i + 4 <= m; i += 4) MultiplyRows<Real, 4>(n, k, a + i * k, b, c + i * n);
  for (; i < m; ++i) MultiplyRows<Real, 1>(n, k, a + i * k, b, c + i * n);
}

template <class Real>
void Transpose(int m, int n, const Real* __restrict a, Real* __restrict out) {
  constexpr int kBlock = 16;  // square by square: what is written stays in cache until it is whole
  for (int first = 0; first < m; first += kBlock) {
    const int end = std::min(first + kBlock, m);
    for (int column = 0; column < n; column += kBlock) {
      for (int j = column; j < std::min(column + kBlock, n); ++j) {
        for (int i = first; i < end; ++i) out[j * m + i] = a[i * n + j];
      }
    }
  }
}

// One segment's real rows and keys, gathered. M = g * rows query vectors, ordered head by head.
template <class Real>
struct Gathered {
  int rows = 0, keys = 0, m = 0;
  std::vector<int64_t> row, slot;  // [rows], [keys]
  std::vector<int64_t> place;      // [keys] index of the key among the segment's padded keys
  std::vector<Real> q, k, v, kt, vt, bias;  // [M, d], [keys, d], [d, keys], [keys]
  std::vector<Real> s, p, o, t;             // scratch
};

// Where the key and value of a slot stand.
template <class Stored>
struct KeyValue {
  const Stored *k, *v;
};
template <class Stored, class Real>
KeyValue<Stored> At(const KernelOperands<Stored, Real>& x, int64_t slot, int h) {
  const bool raw = slot < x.raw_slots;
  const int64_t at = ((raw ? slot : slot - x.raw_slots) * x.kv_heads + h) * x.d;
  return {(raw ? x.k : x.k_compact) + at, (raw ? x.v : x.v_compact) + at};
}
template <class Stored, class Real>
Real BiasAt(const KernelOperands<Stored, Real>& x, int64_t slot, int h) {
  return slot < x.raw_slots ? Real{0} : x.bias[(slot - x.raw_slots) * x.kv_heads + h];
}

template <class Stored, class Real>
void GatherQueries(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                   int h, Gathered<Real>& g) {
  const int d = x.d, per_head = x.heads / x.kv_heads;
  g.row.clear(), g.slot.clear(), g.place.clear();
  for (int64_t i = 0; i < group.queries; ++i) {
    if (const int64_t row = group.query_rows[s * group.queries + i]; row >= 0) g.row.push_back(row);
  }
  const int64_t* slots = group.key_slots.data() + (s * group.kv_heads + h) * group.keys;
  for (int64_t j = 0; j < group.keys; ++j) {
    if (slots[j] >= 0) g.slot.push_back(slots[j]), g.place.push_back(j);
  }
  g.rows = static_cast<int>(g.row.size());
  g.keys = static_cast<int>(g.slot.size());
  g.m = g.rows * per_head;
  g.q.resize(static_cast<size_t>(g.m) * d);
  for (int a = 0; a < per_head; ++a) {
    for (int i = 0; i < g.rows; ++i) {
      const Stored* from = x.q + (g.row[i] * x.heads + h * per_head + a) * d;
      Real* to = g.q.data() + (a * g.rows + i) * d;
      for (int c = 0; c < d; ++c) to[c] = Widen(from[c]);
    }
  }
  g.bias.resize(g.keys);
  for (int j = 0; j < g.keys; ++j) g.bias[j] = BiasAt(x, g.slot[j], h);
}

template <class Stored, class Real>
void GatherKeys(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  const int d = x.d;
  g.k.resize(static_cast<size_t>(g.keys) * d), g.v.resize(g.k.size());
  for (int j = 0; j < g.keys; ++j) {
    const KeyValue<Stored> from = At(x, g.slot[j], h);
    for (int c = 0; c < d; ++c)
      g.k[j * d + c] = Widen(from.k[c]), g.v[j * d + c] = Widen(from.v[c]);
  }
  g.kt.resize(g.k.size());
  Transpose(g.keys, d, g.k.data(), g.kt.data());
}

// Few query rows (a decode step): keys and values are read once where they stand.
template <class Stored, class Real>
void ProductsInPlace(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  g.s.resize(static_cast<size_t>(g.m) * g.keys);
  for (int j = 0; j < g.keys; ++j) {
    const Stored* key = At(x, g.slot[j], h).k;
    for (int i = 0; i < g.m; ++i) {
      const Real* query = g.q.data() + i * x.d;
      Real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int c = 0; c < x.d; ++c) sum += query[c] * Widen(key[c]);
      g.s[static_cast<size_t>(i) * g.keys + j] = sum;
    }
  }
}
template <class Stored, class Real>
void WeightedValuesInPlace(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  for (int j = 0; j < g.keys; ++j) {
    const Stored* value = At(x, g.slot[j], h).v;
    for (int i = 0; i < g.m; ++i) {
      const Real weight = g.s[static_cast<size_t>(i) * g.keys + j];
      Real* to = g.o.data() + i * x.d;
#pragma omp simd
      for (int c = 0; c < x.d; ++c) to[c] += weight * Widen(value[c]);
    }
  }
}

template <class Real>
void Products(int d, Gathered<Real>& g) {
  g.s.assign(static_cast<size_t>(g.m) * g.keys, Real{0});
  MultiplyAdd(g.m, g.keys, d, g.q.data(), g.kt.data(), g.s.data());
}

// Products q k' become scores: scale times them plus bias; hidden keys at -inf. A causal row always
// sees itself.
template <class Real>
void Score(const KernelGroup& group, int64_t s, Real scale, Gathered<Real>& g) {
  const bool causal = !group.causal_offset.empty();
  for (int i = 0; i < g.m; ++i) {
    Real* row = g.s.data() + static_cast<size_t>(i) * g.keys;
    for (int j = 0; j < g.keys; ++j) row[j] = scale * row[j] + g.bias[j];
    if (!causal) continue;
    const int64_t last = i % g.rows + group.causal_offset[s];
    for (int j = 0; j < g.keys; ++j) {
      if (g.place[j] > last) row[j] = -std::numeric_limits<Real>::infinity();
    }
  }
}

}  // namespace

template <class Stored, class Real>
void ForwardSegment(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                    int h, Real* o, Real* lse) {
  thread_local Gathered<Real> g;
  GatherQueries(x, group, s, h, g);
  if (g.keys == 0) return;
  const bool in_place = g.m <= kFewRows;
  if (in_place) {
    ProductsInPlace(x, h, g);
  } else {
    GatherKeys(x, h, g);
    Products(x.d, g);
  }
  Score(group, s, x.scale, g);
  const int d = x.d, per_head = x.heads / x.kv_heads;
  g.t.resize(g.m);  // L of the part
  for (int i = 0; i < g.m; ++i) {
    Real* row = g.s.data() + static_cast<size_t>(i) * g.keys;
    const Real most = *std::max_element(row, row + g.keys);
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < g.keys; ++j) {
      row[j] = ExpNegative(row[j] - most);
      sum += row[j];
    }
    const Real inverse = 1 / sum;
    for (int j = 0; j < g.keys; ++j) row[j] *= inverse;
    g.t[i] = most + std::log(sum);
  }
  g.o.assign(static_cast<size_t>(g.m) * d, Real{0});
  if (in_place) {
    WeightedValuesInPlace(x, h, g);
  } else {
    MultiplyAdd(g.m, d, g.keys, g.s.data(), g.v.data(), g.o.data());
  }
  for (int i = 0; i < g.m; ++i) {
    const int64_t at = g.row[i % g.rows] * x.heads + h * per_head + i / g.rows;
    const Real high = std::max(lse[at], g.t[i]),
               merged = high + std::log(std::exp(lse[at] - high) + std::exp(g.t[i] - high));
    const Real old_share = std::exp(lse[at] - merged), share = std::exp(g.t[i] - merged);
    for (int c = 0; c < d; ++c)
      o[at * d + c] = old_share * o[at * d + c] + share * g.o[static_cast<size_t>(i) * d + c];
    lse[at] = merged;
  }
}

template <class Stored, class Real>
void BackwardSegment(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                     int h, const Real* d_o, const Real* lse, const Real* delta,
                     const KernelGradients<Real>& out) {
  thread_local Gathered<Real> g;
  thread_local std::vector<Real> g_o, transposed;
  GatherQueries(x, group, s, h, g);
  if (g.keys == 0) return;
  GatherKeys(x, h, g);
  Products(x.d, g);
  Score(group, s, x.scale, g);
  const int d = x.d, per_head = x.heads / x.kv_heads;
  const auto row_at = [&](int i) {
    return g.row[i % g.rows] * x.heads + h * per_head + i / g.rows;
  };
  g_o.resize(static_cast<size_t>(g.m) * d);
  for (int i = 0; i < g.m; ++i)
    std::copy_n(d_o + row_at(i) * d, d, g_o.data() + static_cast<size_t>(i) * d);
  g.vt.resize(g.v.size());
  Transpose(g.keys, d, g.v.data(), g.vt.data());
  g.p.assign(g.s.size(), Real{0});  // dP, then dS
  MultiplyAdd(g.m, g.keys, d, g_o.data(), g.vt.data(), g.p.data());
  for (int i = 0; i < g.m; ++i) {
    const Real l = lse[row_at(i)], dl = delta[row_at(i)];
    Real *prob = g.s.data() + static_cast<size_t>(i) * g.keys,
         *d_s = g.p.data() + static_cast<size_t>(i) * g.keys;
#pragma omp simd
    for (int j = 0; j < g.keys; ++j) {
      prob[j] = ExpNegative(prob[j] - l);
      d_s[j] = prob[j] * (d_s[j] - dl);
    }
  }
  g.o.assign(static_cast<size_t>(g.m) * d, Real{0});
  MultiplyAdd(g.m, d, g.keys, g.p.data(), g.k.data(), g.o.data());
  for (int i = 0; i < g.m; ++i) {
    for (int c = 0; c < d; ++c)
      out.q[row_at(i) * d + c] += x.scale * g.o[static_cast<size_t>(i) * d + c];
  }
  transposed.resize(g.s.size());
  std::vector<Real>&d_v = g.v, &d_k = g.k;  // what they held is no longer needed
  Transpose(g.m, g.keys, g.s.data(), transposed.data());
  d_v.assign(d_v.size(), Real{0});
  MultiplyAdd(g.keys, d, g.m, transposed.data(), g_o.data(), d_v.data());
  Transpose(g.m, g.keys, g.p.data(), transposed.data());
  d_k.assign(d_k.size(), Real{0});
  MultiplyAdd(g.keys, d, g.m, transposed.data(), g.q.data(), d_k.data());
  for (int j = 0; j < g.keys; ++j) {
    const bool raw = g.slot[j] < x.raw_slots;
    const int64_t at = (raw ? g.slot[j] : g.slot[j] - x.raw_slots) * x.kv_heads + h;
    Real *to_k = (raw ? out.k : out.k_compact) + at * d,
         *to_v = (raw ? out.v : out.v_compact) + at * d;
    for (int c = 0; c < d; ++c) to_k[c] += x.scale * d_k[j * d + c], to_v[c] += d_v[j * d + c];
    if (raw) continue;
    Real sum = 0;
    for (int i = 0; i < g.m; ++i) sum += transposed[static_cast<size_t>(j) * g.m + i];
    out.bias[at] += sum;
  }
}

#define PALIMPSEST_SEGMENT_KERNEL(Stored, Real)                                                   \
  template void ForwardSegment(const KernelOperands<Stored, Real>&, const KernelGroup&, int64_t,  \
                               int, Real*, Real*);                                                \
  template void BackwardSegment(const KernelOperands<Stored, Real>&, const KernelGroup&, int64_t, \
                                int, const Real*, const Real*, const Real*,                       \
                                const KernelGradients<Real>&);
PALIMPSEST_SEGMENT_KERNEL(float, float)
PALIMPSEST_SEGMENT_KERNEL(double, double)
PALIMPSEST_SEGMENT_KERNEL(BFloat16, float)
#undef PALIMPSEST_SEGMENT_KERNEL

}  // namespace palimpsest::attention
