#include "common/model/cuda/products.h"

#include <gtest/gtest.h>

#include <random>

#include "common/cuda/memory.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::model {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Normals;
using gpu_testing::Widened;

template <class Stored>
class ProductsTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(ProductsTest, Types);

TYPED_TEST(ProductsTest, MultipliesByTransposedWeights) {
  std::mt19937 rng(4);
  constexpr int kRows = 5, kIn = 72, kOut = 31;
  const auto x = Normals<TypeParam>(rng, kRows * kIn, 1),
             w = Normals<TypeParam>(rng, kOut * kIn, 1);
  const DeviceArray<TypeParam> x_there(x), w_there(w), rounded(kRows * kOut);
  const DeviceArray<float> wide(kRows * kOut);
  const cuda::OwnedStream stream;
  DeviceProducts products(stream.get());
  products.Multiply(x_there.data(), w_there.data(), kRows, kIn, kOut, rounded.data());
  products.Multiply(x_there.data(), w_there.data(), kRows, kIn, kOut, wide.data());
  std::vector<double> right(kRows * kOut, 0);
  for (int i = 0; i < kRows * kOut; ++i) {
    for (int c = 0; c < kIn; ++c)
      right[i] += double{Widen(x[i / kOut * kIn + c])} * Widen(w[i % kOut * kIn + c]);
  }
  cuda::Wait(stream.get());
  EXPECT_LT(gpu_testing::Error(Widened(rounded.Read()), right), gpu_testing::kTolerance<TypeParam>);
  EXPECT_LT(gpu_testing::Error(Widened(wide.Read()), right), gpu_testing::kTolerance<float>);
}

}  // namespace
}  // namespace palimpsest::model
