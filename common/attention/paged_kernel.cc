#include "common/attention/paged_kernel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/lanes.h"

namespace palimpsest::attention {
namespace {

// One query head against the `count` slots of a page: scores [16], hidden ones at -inf.
template <class Stored>
inline void ScorePage(const PagedCache<Stored>& cache, int64_t row, int h, int count,
                      const float* q, float scale, float* scores) {
  const int64_t stride = int64_t{cache.kv_heads} * cache.d;
  const Stored* key = cache.k + row * stride + int64_t{h} * cache.d;
  const int whole = cache.d / kLanes * kLanes;
  for (int j = 0; j < count; ++j, key += stride) {
    Vector even = {}, odd = {};
    int c = 0;
    for (; c + 2 * kLanes <= whole; c += 2 * kLanes) {
      even = MultiplyAdd(LoadVector(q + c), LoadVector(key + c), even);
      odd = MultiplyAdd(LoadVector(q + c + kLanes), LoadVector(key + c + kLanes), odd);
    }
    for (; c < whole; c += kLanes) even = MultiplyAdd(LoadVector(q + c), LoadVector(key + c), even);
    float sum = Sum(even + odd);
    for (; c < cache.d; ++c) sum += q[c] * Widen(key[c]);
    scores[j] = scale * sum + cache.bias[(row + j) * cache.kv_heads + h];
  }
  for (int j = count; j < kSlotsPerPage; ++j) scores[j] = -std::numeric_limits<float>::infinity();
}

// o [d] += weights [count] times the page's values, `Vectors` registers of o at a time.
template <class Stored, int Vectors>
inline void AddValues(const Stored* value, int64_t stride, int count, const float* weights,
                      float* o) {
  Vector sum[Vectors];
  for (int v = 0; v < Vectors; ++v) sum[v] = LoadVector(o + v * kLanes);
  for (int j = 0; j < count; ++j, value += stride) {
    const Vector weight = Vector{} + weights[j];
    for (int v = 0; v < Vectors; ++v)
      sum[v] = MultiplyAdd(weight, LoadVector(value + v * kLanes), sum[v]);
  }
  for (int v = 0; v < Vectors; ++v) StoreVector(sum[v], o + v * kLanes);
}

template <class Stored>
void AddPage(const PagedCache<Stored>& cache, int64_t row, int h, int count, const float* weights,
             float* o) {
  const int64_t stride = int64_t{cache.kv_heads} * cache.d;
  const Stored* value = cache.v + row * stride + int64_t{h} * cache.d;
  int c = 0;
  for (; c + 8 * kLanes <= cache.d; c += 8 * kLanes)
    AddValues<Stored, 8>(value + c, stride, count, weights, o + c);
  for (; c + kLanes <= cache.d; c += kLanes)
    AddValues<Stored, 1>(value + c, stride, count, weights, o + c);
  for (; c < cache.d; ++c) {
    for (int j = 0; j < count; ++j) o[c] += weights[j] * Widen(value[j * stride + c]);
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

}  // namespace

template <class Stored>
void AttendPart(const PagedCache<Stored>& cache, const PagedKeys& keys, int h, const Stored* q,
                int group, float scale, int part, float* scratch) {
  const int d = cache.d;
  thread_local std::vector<float> wide;
  wide.resize(static_cast<size_t>(group) * d);
  for (int i = 0; i < group * d; ++i) wide[i] = Widen(q[i]);
  std::fill_n(scratch, group * d, 0.0f);
  thread_local std::vector<Running> heads;
  heads.assign(group, {});
  for (int a = 0; a < group; ++a) heads[a].o = scratch + a * d;
  const int end = std::min(keys.slots, (part + 1) * kSlotsPerPart);
  for (int i = part * kSlotsPerPart; i < end; i += kSlotsPerPage) {
    const int64_t row = int64_t{keys.table[i / kSlotsPerPage]} * kSlotsPerPage;
    const int count = std::min(kSlotsPerPage, end - i);
    for (int a = 0; a < group; ++a) {
      alignas(32) float scores[kSlotsPerPage];
      ScorePage(cache, row, h, count, wide.data() + a * d, scale, scores);
      heads[a].Take(scores, d);
      AddPage(cache, row, h, count, scores, heads[a].o);
    }
  }
  for (int a = 0; a < group; ++a) {
    scratch[group * d + 2 * a] = heads[a].most;
    scratch[group * d + 2 * a + 1] = heads[a].sum;
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

#define PALIMPSEST_PAGED_KERNEL(Stored)                                                          \
  template void AttendPart(const PagedCache<Stored>&, const PagedKeys&, int, const Stored*, int, \
                           float, int, float*);                                                  \
  template void MergeParts(const float*, int, int, int, Stored*);
PALIMPSEST_PAGED_KERNEL(float)
PALIMPSEST_PAGED_KERNEL(BFloat16)
#undef PALIMPSEST_PAGED_KERNEL

}  // namespace palimpsest::attention
