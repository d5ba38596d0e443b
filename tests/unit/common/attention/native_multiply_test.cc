#include "common/attention/native_multiply.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/attention/panels.h"
#include "common/base/processor.h"

namespace palimpsest::attention {
namespace {

std::vector<float> Draw(int count, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& y : x) y = normal(rng);
  return x;
}

TEST(PanelsTest, RowsAndColumnsOfOneMatrixMakeTheSamePanelsWithZerosBehind) {
  std::mt19937 rng(2);
  for (const int n : {1, 31, 32, 33, 80}) {
    const int k = 5;
    const std::vector<float> rows = Draw(k * n, rng);
    std::vector<float> columns(k * n), a(PanelsSize(k, n), 7), b(PanelsSize(k, n), 7);
    for (int l = 0; l < k; ++l) {
      for (int j = 0; j < n; ++j) columns[j * k + l] = rows[l * n + j];
    }
    PackRows(
        k, n, [&](int l) { return rows.data() + l * n; }, a.data());
    PackColumns(
        k, n, [&](int j) { return columns.data() + j * k; }, b.data());
    EXPECT_EQ(a, b);
    for (int l = 0; l < k; ++l) {
      for (int j = 0; j < InPanels(n); ++j)
        EXPECT_EQ(a[j / kPanel * kPanel * k + l * kPanel + j % kPanel],
                  j < n ? rows[l * n + j] : 0);
    }
  }
}

// The left side row by row, and column by column.
TEST(NativeMultiplyTest, IsTheLoopToTheLastBitForEveryShape) {
  if (!HasWideRegisters()) GTEST_SKIP() << "this processor has no AVX-512";
  std::mt19937 rng(1);
  for (const int m : {1, 3, 4, 7, 8, 13, 24}) {
    for (const int n : {1, 15, 16, 17, 32, 33, 48, 63, 80}) {
      for (const int k : {1, 2, 31, 128}) {
        const bool by_columns = (m + n + k) % 2 == 1;
        const std::vector<float> a = Draw(m * k, rng), b = Draw(k * n, rng);
        const std::vector<float> before = Draw(m * InPanels(n), rng);
        std::vector<float> c = before, panels(PanelsSize(k, n));
        PackRows(
            k, n, [&](int l) { return b.data() + l * n; }, panels.data());
        MultiplyAddNatively({.m = m,
                             .n = n,
                             .k = k,
                             .a = a.data(),
                             .a_stride = by_columns ? 1 : k,
                             .a_step = by_columns ? m : 1,
                             .b = panels.data(),
                             .c = c.data(),
                             .c_stride = InPanels(n)});
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < InPanels(n); ++j) {
            float sum = before[i * InPanels(n) + j];
            for (int l = 0; l < k && j < n; ++l)
              sum = std::fma(a[by_columns ? l * m + i : i * k + l], b[l * n + j], sum);
            ASSERT_EQ(c[i * InPanels(n) + j], sum)
                << m << "x" << n << "x" << k << " at " << i << ", " << j;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest::attention
