#include "common/attention/paged_kernel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace palimpsest::attention {
namespace {

constexpr int kLanes = 8;  // floats of a register of the x86-64-v3 baseline
typedef float Vector __attribute__((vector_size(32), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(32), aligned(4)));

inline Vector LoadVector(const float* x) { return *reinterpret_cast<const Vector*>(x); }
inline Vector LoadVector(const BFloat16* x) {
  typedef uint16_t Halves __attribute__((vector_size(16), aligned(2)));
  const Halves halves = *reinterpret_cast<const Halves*>(x);
  return std::bit_cast<Vector>(__builtin_convertvector(halves, Ints) << 16);
}
inline float LoadOne(float x) { return x; }
inline float LoadOne(BFloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
inline void StoreOne(float x, float* to) { *to = x; }
// Nearest, ties to even; the cache holds finite numbers only.
inline void StoreOne(float x, BFloat16* to) {
  const auto bits = std::bit_cast<uint32_t>(x);
  to->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float Sum(Vector x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// e^x for x <= 0 to 2 ulp; 0 below -87.
inline Vector ExpNegative(Vector x) {
  const Vector zero = {};
  const Vector clamped = x < -87.0f ? zero - 87.0f : x;
  const Ints n = __builtin_convertvector(clamped * 1.44269504088896341f - 0.5f, Ints);  // truncates
  const Vector whole = __builtin_convertvector(n, Vector);
  const Vector r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vector series = zero + 1.9841269841e-4f;
  series = series * r + 1.3888888889e-3f;
  series = series * r + 8.3333333333e-3f;
  series = series * r + 4.1666666667e-2f;
  series = series * r + 1.6666666667e-1f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const Vector power = std::bit_cast<Vector>((n + 127) << 23);
  return x < -87.0f ? zero : series * power;
}

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
      even += LoadVector(q + c) * LoadVector(key + c);
      odd += LoadVector(q + c + kLanes) * LoadVector(key + c + kLanes);
    }
    for (; c < whole; c += kLanes) even += LoadVector(q + c) * LoadVector(key + c);
    float sum = Sum(even + odd);
    for (; c < cache.d; ++c) sum += q[c] * LoadOne(key[c]);
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
    for (int v = 0; v < Vectors; ++v) sum[v] += weights[j] * LoadVector(value + v * kLanes);
  }
  for (int v = 0; v < Vectors; ++v) *reinterpret_cast<Vector*>(o + v * kLanes) = sum[v];
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
    for (int j = 0; j < count; ++j) o[c] += weights[j] * LoadOne(value[j * stride + c]);
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
      *reinterpret_cast<Vector*>(scores + j) = weights;
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
  for (int i = 0; i < group * d; ++i) wide[i] = LoadOne(q[i]);
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
      StoreOne(value * inverse, o + a * d + c);
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
