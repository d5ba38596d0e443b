#include "common/context/bitmap.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/unit/common/context/builders.h"

namespace palimpsest::context {
namespace {

using std::string_literals::operator""s;
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

TEST(BitmapTest, BitsAreLeastSignificantFirst) {
  const auto kept = MakeKept({1, 2}, {{5, 6, 13}, {14}});
  EXPECT_EQ(EncodeBitmaps({5, 15}, kept), "\x03\x01\x00\x02"s);
}

TEST(BitmapTest, WhatIsEncodedIsDecodedForEveryWindowSize) {
  RandomStream random(1);
  for (int size = 1; size <= 40; ++size) {
    const Range window = {7, 7 + size};
    KeptPositions kept(Shape{2, 3});
    for (int head = 0; head < 6; ++head) {
      std::vector<int32_t> positions;
      for (int32_t p = window.begin; p < window.end; ++p) {
        if (random.Below(2) == 0) positions.push_back(p);
      }
      kept.AddHead(positions);
    }
    const std::string bytes = EncodeBitmaps(window, kept);
    EXPECT_EQ(bytes.size(), 6u * ((size + 7) / 8));
    EXPECT_EQ(*DecodeBitmaps(window, {2, 3}, bytes), kept);
  }
}

TEST(BitmapTest, HostileBytesAreRefused) {
  EXPECT_FALSE(DecodeBitmaps({5, 15}, {1, 1}, "\x00\x04"s).ok()) << "an unused bit";
  EXPECT_FALSE(DecodeBitmaps({5, 15}, {1, 1}, "\x00"s).ok());
  EXPECT_FALSE(DecodeBitmaps({5, 15}, {1, 1}, "\x00\x00\x00"s).ok());
  EXPECT_FALSE(DecodeBitmaps({5, 5}, {1, 1}, "").ok());
  EXPECT_FALSE(DecodeBitmaps({-1, 5}, {1, 1}, "\x00"s).ok());
  EXPECT_FALSE(DecodeBitmaps({0, kMax}, {kMax, kMax}, "\x00"s).ok());
  EXPECT_FALSE(DecodeBitmaps({0, 8}, {-1, -1}, "\x00"s).ok());
  EXPECT_FALSE(DecodeBitmaps({std::numeric_limits<int32_t>::min(), kMax}, {1, 1}, "\x00"s).ok());
  EXPECT_TRUE(DecodeBitmaps({kMax - 8, kMax}, {1, 1}, "\xff"s).ok());
}

}  // namespace
}  // namespace palimpsest::context
