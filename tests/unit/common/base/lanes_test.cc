#include "common/base/lanes.h"

#include <gtest/gtest.h>

#include "common/base/random.h"

namespace palimpsest {
namespace {

TEST(LanesTest, TheSumsOfEightAreThoseOfEachAloneToTheLastBit) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Vector x[kLanes];
    for (uint64_t i = 0; i < kLanes; ++i) {
      for (uint64_t lane = 0; lane < kLanes; ++lane)
        x[i][lane] = static_cast<float>(Uniform01(seed, i, lane) - 0.5) *
                     static_cast<float>(1 << (seed + i * lane) % 20);
    }
    const Vector all = SumEach(x);
    for (int i = 0; i < kLanes; ++i) EXPECT_EQ(all[i], Sum(x[i])) << "seed " << seed;
  }
}

}  // namespace
}  // namespace palimpsest
