#include "common/attention/cuda/chunks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::attention {
namespace {

using gpu_testing::DeviceArray;

TEST(ChunksTest, ListsTheSlotsThatEachHeadHas) {
  constexpr int kChunks = 2, kHeads = 2, kKeys = 150, kPages = 12;
  std::vector<int32_t> tables(kChunks * kPages);
  for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(7 * i % 31);
  const std::vector<int32_t> first = {0, 3, 20, 17}, count = {150, 0, 1, 129};
  const DeviceArray<int32_t> tables_there(tables), first_there(first), count_there(count);
  for (const bool from_first : {false, true}) {
    const DeviceArray<int64_t> out(kChunks * kHeads * kKeys);
    ASSERT_TRUE(ListSlots({.tables = tables_there.data(),
                           .first = from_first ? first_there.data() : nullptr,
                           .count = count_there.data(),
                           .out = out.data(),
                           .chunks = kChunks,
                           .kv_heads = kHeads,
                           .keys = kKeys,
                           .table_pages = kPages},
                          nullptr)
                    .ok());
    const std::vector<int64_t> got = out.Read();
    for (int i = 0; i < kChunks * kHeads * kKeys; ++i) {
      const int list = i / kKeys, j = i % kKeys, at = (from_first ? first[list] : 0) + j;
      const int64_t right =
          j < count[list] ? tables[list / kHeads * kPages + at / 16] * int64_t{16} + at % 16 : -1;
      ASSERT_EQ(got[i], right) << "list " << list << ", key " << j;
    }
  }
}

TEST(ChunksTest, SumsBeginAsNothingAndEndRounded) {
  constexpr int kRows = 3, kHeads = 4, kWidth = 64, kCount = kRows * kHeads * kWidth;
  const DeviceArray<float> o(kCount), lse(kRows * kHeads);
  ASSERT_TRUE(BeginRows(o.data(), lse.data(), kRows, kHeads, kWidth, nullptr).ok());
  for (const float x : o.Read()) ASSERT_EQ(x, 0);
  for (const float x : lse.Read()) ASSERT_EQ(x, -INFINITY);
  std::mt19937 rng(1);
  const auto sums = gpu_testing::Normals<float>(rng, kCount, 1);
  const DeviceArray<float> there(sums), same(kCount);
  const DeviceArray<BFloat16> rounded(kCount);
  ASSERT_TRUE(RoundRows(there.data(), kCount, same.data(), nullptr).ok());
  ASSERT_TRUE(RoundRows(there.data(), kCount, rounded.data(), nullptr).ok());
  EXPECT_EQ(same.Read(), sums);
  const std::vector<BFloat16> got = rounded.Read();
  for (int i = 0; i < kCount; ++i) ASSERT_EQ(Widen(got[i]), Rounded<BFloat16>(sums[i])) << i;
}

}  // namespace
}  // namespace palimpsest::attention
