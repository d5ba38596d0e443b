#include "common/attention/native_multiply.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "common/base/processor.h"

namespace palimpsest::attention {
namespace {

TEST(NativeMultiplyTest, IsTheLoopToTheLastBitForEveryShape) {
  if (!HasWideRegisters()) GTEST_SKIP() << "this processor has no AVX-512";
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const auto draw = [&](int count) {
    std::vector<float> x(count);
    for (float& y : x) y = normal(rng);
    return x;
  };
  for (const int m : {1, 3, 4, 7, 8, 13, 24}) {
    for (const int n : {1, 15, 16, 17, 32, 33, 48, 63, 80}) {
      for (const int k : {1, 2, 31, 128}) {
        const std::vector<float> a = draw(m * k), b = draw(k * n), before = draw(m * n);
        std::vector<float> c = before;
        MultiplyAddNatively(m, n, k, a.data(), b.data(), c.data());
        for (int i = 0; i < m; ++i) {
          for (int j = 0; j < n; ++j) {
            float sum = before[i * n + j];
            for (int l = 0; l < k; ++l) sum = std::fma(a[i * k + l], b[l * n + j], sum);
            ASSERT_EQ(c[i * n + j], sum) << m << "x" << n << "x" << k << " at " << i << ", " << j;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest::attention
