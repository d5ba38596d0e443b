#include "common/model/cuda/row_copies.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::model {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Normals;
using gpu_testing::Widened;

template <class Stored>
class RowCopiesTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(RowCopiesTest, Types);

constexpr int kWidth = 1032;  // more than a block's threads take

TYPED_TEST(RowCopiesTest, TakesRowsByIndex) {
  std::mt19937 rng(1);
  const auto from = Normals<TypeParam>(rng, 7 * kWidth, 1);
  const std::vector<int32_t> index = {6, 0, 3, 3};
  const DeviceArray<TypeParam> there(from), out(index.size() * kWidth);
  const DeviceArray<int32_t> index_there(index);
  ASSERT_TRUE(TakeRows(there.data(), index_there.data(), 4, kWidth, out.data(), nullptr).ok());
  const auto got = Widened(out.Read()), all = Widened(from);
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], all[index[i / kWidth] * kWidth + i % kWidth]) << i;
  EXPECT_FALSE(TakeRows(there.data(), index_there.data(), 4, 12, out.data(), nullptr).ok());
}

// Two rings of other sizes, layer 1 of each, and a row that goes nowhere.
TYPED_TEST(RowCopiesTest, ScattersRowsIntoTheirRings) {
  std::mt19937 rng(2);
  const auto from = Normals<TypeParam>(rng, 3 * kWidth, 1);
  const DeviceArray<TypeParam> there(from), small(2 * 2 * kWidth), large(2 * 5 * kWidth);
  const DeviceArray<TypeParam*> to(
      std::vector<TypeParam*>{large.data() + 4 * kWidth, nullptr, small.data() + kWidth});
  const DeviceArray<int64_t> stride(std::vector<int64_t>{5 * kWidth, 0, 2 * kWidth});
  ASSERT_TRUE(ScatterRows<TypeParam>({.from = there.data(),
                                      .to = to.data(),
                                      .stride = stride.data(),
                                      .rows = 3,
                                      .n = kWidth,
                                      .layer = 1},
                                     nullptr)
                  .ok());
  const auto rows = Widened(from), in_small = Widened(small.Read()),
             in_large = Widened(large.Read());
  for (int i = 0; i < kWidth; ++i) {
    ASSERT_EQ(in_large[(5 + 4) * kWidth + i], rows[i]);
    ASSERT_EQ(in_small[(2 + 1) * kWidth + i], rows[2 * kWidth + i]);
  }
  for (size_t i = 0; i < 9 * kWidth; ++i) ASSERT_TRUE(std::isnan(in_large[i])) << "written: " << i;
}

TYPED_TEST(RowCopiesTest, AddsABiasAndRoundsOnce) {
  std::mt19937 rng(3);
  const auto y = Normals<TypeParam>(rng, 2 * kWidth, 1), bias = Normals<TypeParam>(rng, kWidth, 1);
  const DeviceArray<TypeParam> there(y), bias_there(bias);
  ASSERT_TRUE(AddBias(bias_there.data(), 2, kWidth, there.data(), nullptr).ok());
  const auto got = Widened(there.Read());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], Rounded<TypeParam>(Widen(y[i]) + Widen(bias[i % kWidth]))) << i;
}

}  // namespace
}  // namespace palimpsest::model
