// Compiled for AVX-512 BF16 (CMakeLists.txt): nothing here may run on another processor, so who
// asks for it stands elsewhere (row_kernels.cc). No templates of the standard library: the linker
// could take this file's instance of one for all.
#include "common/model/native_products.h"

#include <immintrin.h>

#include "common/base/wide_lanes.h"

// Letters: M rows of x, N outputs (rows of w), K inputs.
namespace palimpsest::model {
namespace {

// Of x, gone over once per block of outputs: they fit L2.
constexpr int64_t kPanelBytes = 256 << 10;
constexpr int kRows = 4, kOutputs = 6;  // of a block: 24 sums, in registers

// `Outputs` rows of w against `Rows` rows of x, each [K]. Meanwhile `Ahead` rows at `ahead`, which
// the next block wants, are fetched into the cache: they may lie beyond w's end.
template <int Outputs, int Rows, int Ahead>
inline void Block(const BFloat16* w, const BFloat16* x, int64_t k, const BFloat16* ahead, float* y,
                  int64_t y_stride) {
  __m512 sum[Rows][Outputs];
  for (auto& row : sum) {
    for (auto& one : row) one = _mm512_setzero_ps();
  }
  const int64_t whole = k / kPairs * kPairs;
  for (int64_t i = 0; i < whole; i += kPairs) {
    for (int a = 0; a < Ahead; ++a)
      _mm_prefetch(reinterpret_cast<const char*>(ahead + a * k + i), _MM_HINT_T0);
    __m512bh in[Rows];
    for (int r = 0; r < Rows; ++r) in[r] = LoadPairs(x + r * k + i);
    for (int o = 0; o < Outputs; ++o) {
      const __m512bh weights = LoadPairs(w + o * k + i);
      for (int r = 0; r < Rows; ++r) sum[r][o] = _mm512_dpbf16_ps(sum[r][o], weights, in[r]);
    }
  }
  if (whole < k) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << (k - whole)) - 1);
    __m512bh in[Rows];
    for (int r = 0; r < Rows; ++r) in[r] = LoadPairs(x + r * k + whole, mask);
    for (int o = 0; o < Outputs; ++o) {
      const __m512bh weights = LoadPairs(w + o * k + whole, mask);
      for (int r = 0; r < Rows; ++r) sum[r][o] = _mm512_dpbf16_ps(sum[r][o], weights, in[r]);
    }
  }
  const auto at = [&](int r, int o) { return o < Outputs ? sum[r][o] : _mm512_setzero_ps(); };
  for (int r = 0; r < Rows; ++r) {
    for (int o = 0; o < Outputs; o += 4) {
      alignas(16) float four[4];
      _mm_store_ps(four, SumEach(at(r, o), at(r, o + 1), at(r, o + 2), at(r, o + 3)));
      for (int i = 0; i < 4 && o + i < Outputs; ++i) y[r * y_stride + o + i] = four[i];
    }
  }
}

// Four rows of x, with `ahead` rows of w fetched meanwhile: as many as the next block wants per
// block of rows of x, which hangs on how many of those there are.
template <int Outputs>
inline void FourRows(const BFloat16* w, const BFloat16* x, int64_t k, const BFloat16* from,
                     int64_t ahead, float* y, int64_t y_stride) {
  switch (ahead) {
    case 0:
      return Block<Outputs, kRows, 0>(w, x, k, from, y, y_stride);
    case 1:
      return Block<Outputs, kRows, 1>(w, x, k, from, y, y_stride);
    case 2:
      return Block<Outputs, kRows, 2>(w, x, k, from, y, y_stride);
    case 3:
      return Block<Outputs, kRows, 3>(w, x, k, from, y, y_stride);
    default:
      return Block<Outputs, kRows, Outputs>(w, x, k, from, y, y_stride);
  }
}

// Memory is waited for while the sums of this block are made, evenly over the blocks of rows of x.
template <int Outputs>
void AllRows(const BFloat16* w, const BFloat16* x, int64_t rows, int64_t k, float* y,
             int64_t y_stride) {
  const BFloat16* const next = w + Outputs * k;
  const int64_t fours = rows / kRows;
  int64_t fetched = 0;  // rows of w
  for (int64_t i = 0; i < fours; ++i) {
    const int64_t due = Outputs * (i + 1) / fours;
    FourRows<Outputs>(w, x + i * kRows * k, k, next + fetched * k, due - fetched,
                      y + i * kRows * y_stride, y_stride);
    fetched = due;
  }
  int64_t m = fours * kRows;
  if (m + 2 <= rows) {
    Block<Outputs, 2, Outputs>(w, x + m * k, k, next, y + m * y_stride, y_stride);
    m += 2;
  }
  if (m < rows) Block<Outputs, 1, Outputs>(w, x + m * k, k, next, y + m * y_stride, y_stride);
}

}  // namespace

void MultiplyRowsNatively(const BFloat16* w, const BFloat16* x, int64_t m, int64_t k, int64_t begin,
                          int64_t end, float* y, int64_t y_stride) {
  const int64_t fit = kPanelBytes / (k * static_cast<int64_t>(sizeof(BFloat16))) / kRows * kRows;
  const int64_t panel = fit > kRows ? fit : kRows;
  for (int64_t first = 0; first < m; first += panel) {
    const int64_t rows = m - first < panel ? m - first : panel;
    const BFloat16* in = x + first * k;
    float* out = y + first * y_stride;
    int64_t n = begin;
    for (; n + kOutputs <= end; n += kOutputs)
      AllRows<kOutputs>(w + n * k, in, rows, k, out + n, y_stride);
    for (; n < end; ++n) AllRows<1>(w + n * k, in, rows, k, out + n, y_stride);
  }
}

}  // namespace palimpsest::model
