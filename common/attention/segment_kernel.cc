#include "common/attention/segment_kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/attention/panels.h"
#include "common/attention/scratch.h"
#include "common/base/softmax_row.h"

namespace palimpsest::attention {
namespace {

constexpr int kFewRows =
    8;  // query rows of a segment and KV head below which gathering keys does not pay

// One segment's real rows and keys, gathered. M = g * rows query vectors, ordered head by head.
// Matrices have rows of `stride`, or of InPanels(d) where they have d columns.
template <class Real>
struct Gathered {
  int rows = 0, keys = 0, m = 0, stride = 0;  // stride: InPanels(keys)
  std::vector<int64_t> row, slot;             // [rows], [keys]
  std::vector<int64_t> place;                 // [keys] index of the key among the padded keys
  Scratch<Real> q;                            // [M, d]
  Scratch<Real> bias;                         // [keys]
  Scratch<Real> key_columns, value_columns;   // panels of K' and V' [d, keys]
  Scratch<Real> key_rows, value_rows;         // panels of K and V [keys, d]
  Scratch<Real> query_rows;                   // panels of Q or dO [M, d]
  Scratch<Real> s, p, o, l;                   // [M, stride], [M, stride], [M, d], [M]
};

// `count` zeros.
template <class Real>
Real* Zeros(Scratch<Real>& scratch, size_t count) {
  Real* const at = scratch.Room(count);
  std::fill_n(at, count, Real{0});
  return at;
}

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
  g.stride = InPanels(g.keys);
  Real* const q = g.q.Room(static_cast<size_t>(g.m) * d);
  for (int a = 0; a < per_head; ++a) {
    for (int i = 0; i < g.rows; ++i) {
      const Stored* from = x.q + (g.row[i] * x.heads + h * per_head + a) * d;
      Real* to = q + (a * g.rows + i) * d;
      for (int c = 0; c < d; ++c) to[c] = Widen(from[c]);
    }
  }
  Real* const bias = g.bias.Room(g.keys);
  for (int j = 0; j < g.keys; ++j) bias[j] = BiasAt(x, g.slot[j], h);
}

// Few query rows (a decode step): keys and values are read once where they stand.
template <class Stored, class Real>
void ProductsInPlace(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  Real* const s = g.s.Room(static_cast<size_t>(g.m) * g.stride);
  for (int j = 0; j < g.keys; ++j) {
    const Stored* key = At(x, g.slot[j], h).k;
    for (int i = 0; i < g.m; ++i) {
      const Real* query = g.q.get() + i * x.d;
      Real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int c = 0; c < x.d; ++c) sum += query[c] * Widen(key[c]);
      s[static_cast<size_t>(i) * g.stride + j] = sum;
    }
  }
}
template <class Stored, class Real>
void WeightedValuesInPlace(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  Real* const o = Zeros(g.o, static_cast<size_t>(g.m) * InPanels(x.d));
  for (int j = 0; j < g.keys; ++j) {
    const Stored* value = At(x, g.slot[j], h).v;
    for (int i = 0; i < g.m; ++i) {
      const Real weight = g.s.get()[static_cast<size_t>(i) * g.stride + j];
      Real* to = o + i * InPanels(x.d);
#pragma omp simd
      for (int c = 0; c < x.d; ++c) to[c] += weight * Widen(value[c]);
    }
  }
}

// q k' of all rows and keys.
template <class Stored, class Real>
void Products(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g) {
  Real* const keys = g.key_columns.Room(PanelsSize(x.d, g.keys));
  PackColumns(
      x.d, g.keys, [&](int j) { return At(x, g.slot[j], h).k; }, keys);
  MultiplyAdd<Real>({.m = g.m,
                     .n = g.keys,
                     .k = x.d,
                     .a = g.q.get(),
                     .a_stride = x.d,
                     .b = keys,
                     .c = Zeros(g.s, static_cast<size_t>(g.m) * g.stride),
                     .c_stride = g.stride});
}

// weights [M, stride] times V or K, whose row of slot j is rows(j), into o.
template <class Real, class Rows>
const Real* Weighted(const Real* weights, const Rows& rows, int d, Scratch<Real>& panels,
                     Gathered<Real>& g) {
  Real* const b = panels.Room(PanelsSize(g.keys, d));
  PackRows(g.keys, d, rows, b);
  Real* const o = Zeros(g.o, static_cast<size_t>(g.m) * InPanels(d));
  MultiplyAdd<Real>({.m = g.m,
                     .n = d,
                     .k = g.keys,
                     .a = weights,
                     .a_stride = g.stride,
                     .b = b,
                     .c = o,
                     .c_stride = InPanels(d)});
  return o;
}

// Products q k' become scores: scale times them plus bias; hidden keys at -inf. A causal row always
// sees itself.
template <class Real>
void Score(const KernelGroup& group, int64_t s, Real scale, Gathered<Real>& g) {
  const bool causal = !group.causal_offset.empty();
  for (int i = 0; i < g.m; ++i) {
    Real* row = g.s.get() + static_cast<size_t>(i) * g.stride;
    const Real* bias = g.bias.get();
    for (int j = 0; j < g.keys; ++j) row[j] = scale * row[j] + bias[j];
    if (!causal) continue;
    const int64_t last = i % g.rows + group.causal_offset[s];
    for (int j = 0; j < g.keys; ++j) {
      if (g.place[j] > last) row[j] = -std::numeric_limits<Real>::infinity();
    }
  }
}

// dP = dO V' of all rows and keys.
template <class Stored, class Real>
Real* ProbabilityGradients(const KernelOperands<Stored, Real>& x, int h, const Real* d_out,
                           Gathered<Real>& g) {
  Real* const values = g.value_columns.Room(PanelsSize(x.d, g.keys));
  PackColumns(
      x.d, g.keys, [&](int j) { return At(x, g.slot[j], h).v; }, values);
  Real* const d_p = Zeros(g.p, static_cast<size_t>(g.m) * g.stride);
  MultiplyAdd<Real>({.m = g.m,
                     .n = g.keys,
                     .k = x.d,
                     .a = d_out,
                     .a_stride = x.d,
                     .b = values,
                     .c = d_p,
                     .c_stride = g.stride});
  return d_p;
}

// weights' [keys, M] times rows [M, d], into `out` [keys, InPanels(d)].
template <class Real>
void TimesColumns(const Real* weights, const Real* rows, int d, Gathered<Real>& g,
                  Scratch<Real>& out) {
  Real* const b = g.query_rows.Room(PanelsSize(g.m, d));
  PackRows(
      g.m, d, [&](int i) { return rows + int64_t{i} * d; }, b);
  MultiplyAdd<Real>({.m = g.keys,
                     .n = d,
                     .k = g.m,
                     .a = weights,
                     .a_stride = 1,
                     .a_step = g.stride,
                     .b = b,
                     .c = Zeros(out, static_cast<size_t>(g.keys) * InPanels(d)),
                     .c_stride = InPanels(d)});
}

// What the keys' slots are given by this segment.
template <class Stored, class Real>
void AddToKeys(const KernelOperands<Stored, Real>& x, int h, Gathered<Real>& g, const Real* d_s,
               const Real* d_k, const Real* d_v, const KernelGradients<Real>& out) {
  Real* const d_bias = Zeros(g.bias, g.keys);
  for (int i = 0; i < g.m; ++i) {
    for (int j = 0; j < g.keys; ++j) d_bias[j] += d_s[int64_t{i} * g.stride + j];
  }
  const int d = x.d;
  for (int j = 0; j < g.keys; ++j) {
    const bool raw = g.slot[j] < x.raw_slots;
    const int64_t at = (raw ? g.slot[j] : g.slot[j] - x.raw_slots) * x.kv_heads + h;
    const int64_t from = int64_t{j} * InPanels(d);
    Real *to_k = (raw ? out.k : out.k_compact) + at * d,
         *to_v = (raw ? out.v : out.v_compact) + at * d;
    for (int c = 0; c < d; ++c) to_k[c] += x.scale * d_k[from + c], to_v[c] += d_v[from + c];
    if (!raw) out.bias[at] += d_bias[j];
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
    Products(x, h, g);
  }
  Score(group, s, x.scale, g);
  const int d = x.d, per_head = x.heads / x.kv_heads;
  Real* const part = g.l.Room(g.m);  // L of the part
  for (int i = 0; i < g.m; ++i) {
    Real* const row = g.s.get() + int64_t{i} * g.stride;
    part[i] = SoftmaxRow(row, g.keys, row);
  }
  if (in_place) {
    WeightedValuesInPlace(x, h, g);
  } else {
    Weighted(
        g.s.get(), [&](int j) { return At(x, g.slot[j], h).v; }, d, g.value_rows, g);
  }
  for (int i = 0; i < g.m; ++i) {
    const Real* from = g.o.get() + int64_t{i} * InPanels(d);
    const int64_t at = g.row[i % g.rows] * x.heads + h * per_head + i / g.rows;
    const Real high = std::max(lse[at], part[i]),
               merged = high + std::log(std::exp(lse[at] - high) + std::exp(part[i] - high));
    const Real old_share = std::exp(lse[at] - merged), share = std::exp(part[i] - merged);
    for (int c = 0; c < d; ++c) o[at * d + c] = old_share * o[at * d + c] + share * from[c];
    lse[at] = merged;
  }
}

template <class Stored, class Real>
void BackwardSegment(const KernelOperands<Stored, Real>& x, const KernelGroup& group, int64_t s,
                     int h, const Real* d_o, const Real* lse, const Real* delta,
                     const KernelGradients<Real>& out) {
  thread_local Gathered<Real> g;
  thread_local Scratch<Real> d_v, d_k, rows;
  GatherQueries(x, group, s, h, g);
  if (g.keys == 0) return;
  Products(x, h, g);
  Score(group, s, x.scale, g);
  const int d = x.d, per_head = x.heads / x.kv_heads;
  const auto row_at = [&](int i) {
    return g.row[i % g.rows] * x.heads + h * per_head + i / g.rows;
  };
  Real* const d_out = rows.Room(static_cast<size_t>(g.m) * d);
  for (int i = 0; i < g.m; ++i) std::copy_n(d_o + row_at(i) * d, d, d_out + int64_t{i} * d);
  Real *const prob = g.s.get(), *const d_s = ProbabilityGradients(x, h, d_out, g);
  for (int i = 0; i < g.m; ++i) {
    const Real l = lse[row_at(i)], dl = delta[row_at(i)];
    Real *p = prob + int64_t{i} * g.stride, *ds = d_s + int64_t{i} * g.stride;
#pragma omp simd
    for (int j = 0; j < g.keys; ++j) {
      p[j] = ExpNegative(p[j] - l);
      ds[j] = p[j] * (ds[j] - dl);
    }
  }
  const Real* d_q = Weighted(
      d_s, [&](int j) { return At(x, g.slot[j], h).k; }, d, g.key_rows, g);
  for (int i = 0; i < g.m; ++i) {
    for (int c = 0; c < d; ++c)
      out.q[row_at(i) * d + c] += x.scale * d_q[int64_t{i} * InPanels(d) + c];
  }
  TimesColumns(prob, d_out, d, g, d_v);
  TimesColumns(d_s, g.q.get(), d, g, d_k);
  AddToKeys(x, h, g, d_s, d_k.get(), d_v.get(), out);
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
