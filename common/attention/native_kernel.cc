// Compiled for AVX-512 BF16 (CMakeLists.txt): nothing here may run on another processor, so who
// asks for it stands elsewhere (paged_kernel.cc). No templates of the standard library and no
// inline functions of others: the linker could take this file's instance of one for all.
#include "common/attention/native_kernel.h"

#include <immintrin.h>

#include "common/base/wide_lanes.h"

// Letters: Hk KV heads, g query heads of one, d = D head width.
namespace palimpsest::attention {
namespace {

constexpr int kFloats = 16;  // of a register; as many as a page has slots
static_assert(kFloats == kSlotsPerPage);

inline __m512 LoadWide(const BFloat16* from) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// e^x for x <= 0, 0 below -87: the series of lanes.h.
inline __m512 ExpNegative(__m512 x) {
  const auto all = [](float value) { return _mm512_set1_ps(value); };
  const __m512 clamped = _mm512_max_ps(x, all(-87.0f));
  const __m512i n =
      _mm512_cvttps_epi32(_mm512_fmsub_ps(clamped, all(1.44269504088896341f), all(0.5f)));
  const __m512 whole = _mm512_cvtepi32_ps(n);
  __m512 r = _mm512_fnmadd_ps(whole, all(0.693359375f), clamped);
  r = _mm512_fmadd_ps(whole, all(2.12194440e-4f), r);
  __m512 series = all(1.9841269841e-4f);
  constexpr float kTerms[] = {
      1.3888888889e-3f, 8.3333333333e-3f, 4.1666666667e-2f, 1.6666666667e-1f, 0.5f, 1.0f, 1.0f};
  for (const float term : kTerms) series = _mm512_fmadd_ps(series, r, all(term));
  const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23);
  const __mmask16 seen = _mm512_cmp_ps_mask(x, all(-87.0f), _CMP_GE_OQ);
  return _mm512_maskz_mul_ps(seen, series, _mm512_castsi512_ps(power));
}

// A page: where its rows begin in the pool, and what of them is seen.
struct Page {
  int64_t row;
  int count;  // of its slots, >= 1
};

// The running softmax of a query head; its output, not yet divided by the sum, lies in scratch.
struct Running {
  __m512 most;  // in all lanes
  __m512 sum;   // over pages, lane by lane
};

template <int D, int Heads>
class Attention {
 public:
  Attention(const PagedCache<BFloat16>& cache, int h, const BFloat16* q, float scale, float* o)
      : cache_(cache),
        stride_(int64_t{cache.kv_heads} * D),
        head_(int64_t{h} * D),
        h_(h),
        q_(q),
        scale_(_mm512_set1_ps(scale)),
        o_(o) {
    for (Running& r : running_) {
      r.most = _mm512_set1_ps(-__builtin_inff());
      r.sum = _mm512_setzero_ps();
    }
  }

  // Meanwhile the rows of the page at `next` are fetched.
  void Take(Page page, int64_t next) {
    alignas(64) float weights[Heads][kFloats];
    Score(page, next, weights);
    for (int a = 0; a < Heads; ++a) Weigh(page, a, weights[a]);
    AddValues(page, next, weights);
  }

  // What AttendPart keeps behind the outputs: maximum and sum of query head a.
  void Tell(int a, float* facts) const {
    facts[0] = _mm512_cvtss_f32(running_[a].most);
    facts[1] = _mm512_reduce_add_ps(running_[a].sum);
  }

 private:
  static void Fetch(const BFloat16* slot) {
    for (int c = 0; c < D; c += kPairs)
      _mm_prefetch(reinterpret_cast<const char*>(slot + c), _MM_HINT_T0);
  }

  // weights [Heads, 16] = q k of each slot; nobody reads those behind the page's count.
  void Score(Page page, int64_t next, float (*weights)[kFloats]) const {
    __m512bh query[Heads][D / kPairs];
    for (int a = 0; a < Heads; ++a) {
      for (int c = 0; c < D / kPairs; ++c) query[a][c] = LoadPairs(q_ + a * D + c * kPairs);
    }
    const BFloat16* key = cache_.k + page.row * stride_ + head_;
    for (int first = 0; first < page.count; first += 4) {
      __m512 sums[Heads][4];
      for (int j = 0; j < 4; ++j) {
        for (int a = 0; a < Heads; ++a) sums[a][j] = _mm512_setzero_ps();
        Fetch(cache_.k + (next + first + j) * stride_ + head_);
        for (int c = 0; c < D / kPairs; ++c) {
          const __m512bh pairs = LoadPairs(key + (first + j) * stride_ + c * kPairs);
          for (int a = 0; a < Heads; ++a)
            sums[a][j] = _mm512_dpbf16_ps(sums[a][j], query[a][c], pairs);
        }
      }
      for (int a = 0; a < Heads; ++a)
        _mm_store_ps(weights[a] + first, SumEach(sums[a][0], sums[a][1], sums[a][2], sums[a][3]));
    }
  }

  // Scores become weights e^(s - most), 0 where a slot is not seen.
  void Weigh(Page page, int a, float* weights) {
    const auto seen = static_cast<__mmask16>((1u << page.count) - 1);
    const __m512i at =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                           _mm512_set1_epi32(cache_.kv_heads));
    const float* bias = cache_.bias + page.row * cache_.kv_heads + h_;
    const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
    const __m512 added = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), seen, at, bias, 4);
    const __m512 scores =
        _mm512_mask_blend_ps(seen, hidden, _mm512_fmadd_ps(_mm512_load_ps(weights), scale_, added));
    Running& r = running_[a];
    const __m512 most = _mm512_max_ps(r.most, _mm512_set1_ps(_mm512_reduce_max_ps(scores)));
    if (_mm512_cmp_ps_mask(most, r.most, _CMP_GT_OQ)) {
      // e^(-inf) at the first page: nothing was summed up.
      const __m512 shrink = ExpNegative(_mm512_sub_ps(r.most, most));
      for (int c = 0; c < D; c += kFloats)
        _mm512_storeu_ps(o_ + a * D + c, _mm512_mul_ps(_mm512_loadu_ps(o_ + a * D + c), shrink));
      r.sum = _mm512_mul_ps(r.sum, shrink);
      r.most = most;
    }
    const __m512 share = ExpNegative(_mm512_sub_ps(scores, r.most));
    r.sum = _mm512_add_ps(r.sum, share);
    _mm512_store_ps(weights, share);
  }

  // o [Heads, D] += weights [Heads, 16] times the page's values.
  void AddValues(Page page, int64_t next, const float (*weights)[kFloats]) const {
    __m512 sum[Heads][D / kFloats];
    for (int a = 0; a < Heads; ++a) {
      for (int c = 0; c < D / kFloats; ++c) sum[a][c] = _mm512_loadu_ps(o_ + a * D + c * kFloats);
    }
    const BFloat16* value = cache_.v + page.row * stride_ + head_;
    for (int j = 0; j < page.count; ++j, value += stride_) {
      Fetch(cache_.v + (next + j) * stride_ + head_);
      for (int c = 0; c < D / kFloats; ++c) {
        const __m512 x = LoadWide(value + c * kFloats);
        for (int a = 0; a < Heads; ++a)
          sum[a][c] = _mm512_fmadd_ps(_mm512_set1_ps(weights[a][j]), x, sum[a][c]);
      }
    }
    for (int a = 0; a < Heads; ++a) {
      for (int c = 0; c < D / kFloats; ++c) _mm512_storeu_ps(o_ + a * D + c * kFloats, sum[a][c]);
    }
  }

  const PagedCache<BFloat16> cache_;
  const int64_t stride_, head_;  // numbers from slot to slot, to the head within one
  const int h_;
  const BFloat16* const q_;  // [Heads, D]
  const __m512 scale_;
  float* const o_;  // [Heads, D]
  Running running_[Heads];
};

template <int D, int Heads>
void AttendHeads(const PagedCache<BFloat16>& cache, const int32_t* table, int begin, int end, int h,
                 const BFloat16* q, float scale, float* o, float* facts) {
  Attention<D, Heads> attention(cache, h, q, scale, o);
  for (int i = begin; i < end; i += kSlotsPerPage) {
    const int64_t row = int64_t{table[i / kSlotsPerPage]} * kSlotsPerPage;
    const int after = i + kSlotsPerPage;
    const int64_t next = after < end ? int64_t{table[after / kSlotsPerPage]} * kSlotsPerPage : row;
    attention.Take({row, end - i < kSlotsPerPage ? end - i : kSlotsPerPage}, next);
  }
  for (int a = 0; a < Heads; ++a) attention.Tell(a, facts + 2 * a);
}

template <int D>
void AttendGroup(const PagedCache<BFloat16>& cache, const int32_t* table, int begin, int end, int h,
                 const BFloat16* q, int group, float scale, float* scratch) {
  float* const facts = scratch + group * D;
  int a = 0;
  for (; a + 2 <= group; a += 2)
    AttendHeads<D, 2>(cache, table, begin, end, h, q + a * D, scale, scratch + a * D,
                      facts + 2 * a);
  if (a < group)
    AttendHeads<D, 1>(cache, table, begin, end, h, q + a * D, scale, scratch + a * D,
                      facts + 2 * a);
}

}  // namespace

bool HasNativeWidth(int d) { return d == 32 || d == 64 || d == 128; }

void AttendSlotsNatively(const PagedCache<BFloat16>& cache, const int32_t* table, int begin,
                         int end, int h, const BFloat16* q, int group, float scale,
                         float* scratch) {
  switch (cache.d) {
    case 32:
      return AttendGroup<32>(cache, table, begin, end, h, q, group, scale, scratch);
    case 64:
      return AttendGroup<64>(cache, table, begin, end, h, q, group, scale, scratch);
    default:
      return AttendGroup<128>(cache, table, begin, end, h, q, group, scale, scratch);
  }
}

}  // namespace palimpsest::attention
