#include "common/attention/paged_kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/attention/native_kernel.h"
#include "common/base/lanes.h"
#include "common/base/processor.h"

namespace palimpsest::attention {
namespace {

// The cache lines of one slot under one head. They lie a row of all heads apart, which the
// processor does not foresee.
template <class Stored>
inline void Fetch(const Stored* slot, int d) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(Stored));
  for (int c = 0; c < d; c += kLine) __builtin_prefetch(slot + c);
}

// `Heads` query heads q [Heads, d] against the `count` slots of a page: scores [Heads, 16], hidden
// ones at -inf. Meanwhile the page's values are fetched, and the keys of the page at `next`.
template <class Stored, int Heads>
inline void ScorePage(const PagedCache<Stored>& cache, int64_t row, int64_t next, int h, int count,
                      const float* q, float scale, float (*scores)[kSlotsPerPage]) {
  const int64_t stride = int64_t{cache.kv_heads} * cache.d, head = int64_t{h} * cache.d;
  const int d = cache.d, whole = d / kLanes * kLanes;
  const Stored* key = cache.k + row * stride + head;
  for (int first = 0; first < count; first += kLanes) {
    const int some = std::min(kLanes, count - first);
    Vector sums[Heads][kLanes] = {};
    float rest[Heads][kLanes] = {};
    for (int j = 0; j < some; ++j, key += stride) {
      Fetch(cache.v + (row + first + j) * stride + head, d);
      Fetch(cache.k + (next + first + j) * stride + head, d);
      Vector even[Heads] = {}, odd[Heads] = {};
      int c = 0;
      for (; c + 2 * kLanes <= whole; c += 2 * kLanes) {
        const Vector left = LoadVector(key + c), right = LoadVector(key + c + kLanes);
        for (int a = 0; a < Heads; ++a) {
          even[a] = MultiplyAdd(LoadVector(q + a * d + c), left, even[a]);
          odd[a] = MultiplyAdd(LoadVector(q + a * d + c + kLanes), right, odd[a]);
        }
      }
      for (int a = 0; a < Heads; ++a) {
        for (int e = c; e < whole; e += kLanes)
          even[a] = MultiplyAdd(LoadVector(q + a * d + e), LoadVector(key + e), even[a]);
        sums[a][j] = even[a] + odd[a];
        for (int e = whole; e < d; ++e) rest[a][j] += q[a * d + e] * Widen(key[e]);
      }
    }
    for (int a = 0; a < Heads; ++a) {
      Vector all = SumEach(sums[a]);
      if (whole < d) all += LoadVector(rest[a]);
      StoreVector(scale * all, scores[a] + first);
    }
  }
  for (int a = 0; a < Heads; ++a) {
    for (int j = 0; j < count; ++j) scores[a][j] += cache.bias[(row + j) * cache.kv_heads + h];
    for (int j = count; j < kSlotsPerPage; ++j)
      scores[a][j] = -std::numeric_limits<float>::infinity();
  }
}

// o [Heads, d] += weights [Heads, count] times the page's values, `Vectors` registers of each o at
// a time.
template <class Stored, int Heads, int Vectors>
inline void AddValues(const Stored* value, int64_t stride, int count,
                      const float (*weights)[kSlotsPerPage], float* o, int d) {
  Vector sum[Heads][Vectors];
  for (int a = 0; a < Heads; ++a) {
    for (int v = 0; v < Vectors; ++v) sum[a][v] = LoadVector(o + a * d + v * kLanes);
  }
  for (int j = 0; j < count; ++j, value += stride) {
    for (int v = 0; v < Vectors; ++v) {
      const Vector x = LoadVector(value + v * kLanes);
      for (int a = 0; a < Heads; ++a)
        sum[a][v] = MultiplyAdd(Vector{} + weights[a][j], x, sum[a][v]);
    }
  }
  for (int a = 0; a < Heads; ++a) {
    for (int v = 0; v < Vectors; ++v) StoreVector(sum[a][v], o + a * d + v * kLanes);
  }
}

template <class Stored, int Heads>
inline void AddPage(const PagedCache<Stored>& cache, int64_t row, int h, int count,
                    const float (*weights)[kSlotsPerPage], float* o) {
  constexpr int kVectors = 8 / Heads;
  const int64_t stride = int64_t{cache.kv_heads} * cache.d;
  const int d = cache.d;
  const Stored* value = cache.v + row * stride + int64_t{h} * d;
  int c = 0;
  for (; c + kVectors * kLanes <= d; c += kVectors * kLanes)
    AddValues<Stored, Heads, kVectors>(value + c, stride, count, weights, o + c, d);
  for (; c + kLanes <= d; c += kLanes)
    AddValues<Stored, Heads, 1>(value + c, stride, count, weights, o + c, d);
  for (; c < d; ++c) {
    for (int a = 0; a < Heads; ++a) {
      for (int j = 0; j < count; ++j) o[a * d + c] += weights[a][j] * Widen(value[j * stride + c]);
    }
  }
}

// The running softmax of one query head: output not yet divided by the sum.
struct Running {
  float* o;  // [d]
  float most = -std::numeric_limits<float>::infinity();
  float sum = 0;

  // Takes in a page's scores, which become weights e^(s - most).
  void Take(float* scores, int d) {
    float high = most;
    for (int j = 0; j < kSlotsPerPage; ++j) high = std::max(high, scores[j]);
    if (high > most) {
      const float shrink =
          most == -std::numeric_limits<float>::infinity() ? 0 : std::exp(most - high);
      for (int c = 0; c < d; ++c) o[c] *= shrink;
      sum *= shrink;
      most = high;
    }
    Vector total = {};
    for (int j = 0; j < kSlotsPerPage; j += kLanes) {
      const Vector weights = ExpNegative(LoadVector(scores + j) - most);
      StoreVector(weights, scores + j);
      total += weights;
    }
    sum += Sum(total);
  }
};

// The slots [begin, end) of a row for `Heads` query heads q [Heads, d] of KV head h, whose outputs
// stand side by side.
template <class Stored, int Heads>
void AttendSlots(const PagedCache<Stored>& cache, const int32_t* table, int begin, int end, int h,
                 const float* q, float scale, Running* heads) {
  for (int i = begin; i < end; i += kSlotsPerPage) {
    const int64_t row = int64_t{table[i / kSlotsPerPage]} * kSlotsPerPage;
    const int after = i + kSlotsPerPage;
    const int64_t next = after < end ? int64_t{table[after / kSlotsPerPage]} * kSlotsPerPage : row;
    const int count = std::min(kSlotsPerPage, end - i);
    alignas(32) float scores[Heads][kSlotsPerPage];
    ScorePage<Stored, Heads>(cache, row, next, h, count, q, scale, scores);
    for (int a = 0; a < Heads; ++a) heads[a].Take(scores[a], cache.d);
    AddPage<Stored, Heads>(cache, row, h, count, scores, heads[0].o);
  }
}

struct SlotRange {
  int begin, end;
};

SlotRange SlotsOfPart(const PagedKeys& keys, int part) {
  const int begin = part * kSlotsPerPart;
  return {begin, std::min(keys.slots, begin + kSlotsPerPart)};
}

}  // namespace

template <class Stored>
void AttendPart(const PagedCache<Stored>& cache, const PagedKeys& keys, int h, const Stored* q,
                int group, float scale, int part, float* scratch) {
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    if (HasBFloat16Instructions() && HasNativeWidth(cache.d)) {
      std::fill_n(scratch, group * cache.d, 0.0f);
      const SlotRange slots = SlotsOfPart(keys, part);
      return AttendSlotsNatively(cache, keys.table, slots.begin, slots.end, h, q, group, scale,
                                 scratch);
    }
  }
  AttendPartByLanes(cache, keys, h, q, group, scale, part, scratch);
}

template <class Stored>
void AttendPartByLanes(const PagedCache<Stored>& cache, const PagedKeys& keys, int h,
                       const Stored* q, int group, float scale, int part, float* scratch) {
  const int d = cache.d;
  thread_local std::vector<float> wide;
  wide.resize(static_cast<size_t>(group) * d);
  for (int i = 0; i < group * d; ++i) wide[i] = Widen(q[i]);
  std::fill_n(scratch, group * d, 0.0f);
  thread_local std::vector<Running> heads;
  heads.assign(group, {});
  for (int a = 0; a < group; ++a) heads[a].o = scratch + a * d;
  const auto [begin, end] = SlotsOfPart(keys, part);
  int a = 0;
  for (; a + 2 <= group; a += 2)
    AttendSlots<Stored, 2>(cache, keys.table, begin, end, h, wide.data() + a * d, scale, &heads[a]);
  if (a < group)
    AttendSlots<Stored, 1>(cache, keys.table, begin, end, h, wide.data() + a * d, scale, &heads[a]);
  for (int i = 0; i < group; ++i) {
    scratch[group * d + 2 * i] = heads[i].most;
    scratch[group * d + 2 * i + 1] = heads[i].sum;
  }
}

template <class Stored>
void MergeParts(const float* scratch, int parts, int group, int d, Stored* o) {
  const int stride = ScratchOf(1, group, d);
  thread_local std::vector<float> shares;  // of each part: e^(its maximum - the row's)
  shares.resize(parts);
  for (int a = 0; a < group; ++a) {
    const float* facts = scratch + group * d + 2 * a;  // maximum and sum, a stride per part
    float most = facts[0], sum = 0;
    for (int p = 1; p < parts; ++p) most = std::max(most, facts[p * stride]);
    for (int p = 0; p < parts; ++p) {
      shares[p] = std::exp(facts[p * stride] - most);
      sum += shares[p] * facts[p * stride + 1];
    }
    const float inverse = 1 / sum;
    for (int c = 0; c < d; ++c) {
      float value = 0;
      for (int p = 0; p < parts; ++p) value += shares[p] * scratch[p * stride + a * d + c];
      Narrow(value * inverse, o + a * d + c);
    }
  }
}

#define PALIMPSEST_PAGED_KERNEL(Stored)                                                            \
  template void AttendPart(const PagedCache<Stored>&, const PagedKeys&, int, const Stored*, int,   \
                           float, int, float*);                                                    \
  template void AttendPartByLanes(const PagedCache<Stored>&, const PagedKeys&, int, const Stored*, \
                                  int, float, int, float*);                                        \
  template void MergeParts(const float*, int, int, int, Stored*);
PALIMPSEST_PAGED_KERNEL(float)
PALIMPSEST_PAGED_KERNEL(BFloat16)
#undef PALIMPSEST_PAGED_KERNEL

}  // namespace palimpsest::attention
