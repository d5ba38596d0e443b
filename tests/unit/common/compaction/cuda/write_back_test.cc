#include "common/compaction/cuda/write_back.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::compaction {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Normals;
using gpu_testing::Widened;

constexpr int kPageSlots = 16, kKvHeads = 2, kD = 32, kPages = 9;

struct Head {
  int first, width, slots;
  std::vector<int32_t> kept;
};

// Two heads of one sequence: the same pages, other windows of other lengths.
const std::vector<Head> kHeads = {
    {3, 50, 120, {0, 1, 7, 8, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 48, 49}},
    {0, 40, 40, {39}}};

template <class Stored>
struct Cache {
  std::vector<Stored> k, v;
  std::vector<float> bias;
};

template <class Stored>
class WriteBackTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(WriteBackTest, Types);

// Without new values those of the kept slots go along.
template <class TypeParam>
void KeptSlotsComeFirst(bool fitted) {
  std::mt19937 rng(1);
  const size_t places = size_t{kPages} * kPageSlots * kKvHeads;
  const Cache<TypeParam> before{Normals<TypeParam>(rng, places * kD, 1),
                                Normals<TypeParam>(rng, places * kD, 1),
                                Normals<float>(rng, places, 1)};
  std::vector<int32_t> pages(kPages);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), rng);
  const auto place = [&](int slot, size_t h) {
    return (size_t(pages[slot / kPageSlots]) * kPageSlots + slot % kPageSlots) * kKvHeads + h;
  };
  size_t t = 0;
  for (const Head& head : kHeads) t = std::max(t, head.kept.size());
  const auto values = Normals<TypeParam>(rng, kHeads.size() * t * kD, 1);
  const auto biases = Normals<float>(rng, kHeads.size() * t, 1);
  Cache<TypeParam> right = before;
  for (size_t h = 0; h < kHeads.size(); ++h) {
    const Head& head = kHeads[h];
    const int keep = static_cast<int>(head.kept.size());
    for (int i = 0; i < keep + head.slots - head.first - head.width; ++i) {
      const size_t to = place(head.first + i, h);
      const size_t from = place(head.first + (i < keep ? head.kept[i] : head.width + i - keep), h);
      std::copy_n(before.k.begin() + from * kD, kD, right.k.begin() + to * kD);
      const bool is_new = fitted && i < keep;
      std::copy_n(is_new ? values.begin() + (h * t + i) * kD : before.v.begin() + from * kD, kD,
                  right.v.begin() + to * kD);
      right.bias[to] = is_new ? biases[h * t + i] : before.bias[from];
    }
  }
  for (const uint64_t seed : {0, 1, 2}) {
    gpu_testing::ShuffleThreads(seed);
    const DeviceArray<TypeParam> k(before.k), v(before.v), values_there(values);
    const DeviceArray<float> bias(before.bias), biases_there(biases);
    const DeviceArray<int32_t> table(pages);
    std::vector<SlotsHead<TypeParam>> targets;
    std::vector<HeadFacts> facts;
    std::vector<int32_t> kept(kHeads.size() * t, -1);
    for (size_t h = 0; h < kHeads.size(); ++h) {
      const Head& head = kHeads[h];
      targets.push_back({.k = k.data() + h * kD,
                         .v = v.data() + h * kD,
                         .bias = bias.data() + h,
                         .table = table.data(),
                         .first = head.first,
                         .slots = head.slots});
      facts.push_back({.width = head.width, .keep = static_cast<int>(head.kept.size())});
      std::copy(head.kept.begin(), head.kept.end(), kept.begin() + h * t);
    }
    const DeviceArray<SlotsHead<TypeParam>> targets_there(targets);
    const DeviceArray<HeadFacts> facts_there(facts);
    const DeviceArray<int32_t> kept_there(kept);
    ASSERT_TRUE(WriteBack<TypeParam>({.targets = targets_there.data(),
                                      .heads = facts_there.data(),
                                      .kept = kept_there.data(),
                                      .bias = fitted ? biases_there.data() : nullptr,
                                      .values = fitted ? values_there.data() : nullptr,
                                      .problems = static_cast<int>(kHeads.size()),
                                      .t = static_cast<int>(t),
                                      .d = kD,
                                      .page_slots = kPageSlots,
                                      .slot_stride = kKvHeads * kD,
                                      .bias_stride = kKvHeads},
                                     nullptr)
                    .ok());
    EXPECT_EQ(Widened(k.Read()), Widened(right.k));
    EXPECT_EQ(Widened(v.Read()), Widened(right.v));
    EXPECT_EQ(bias.Read(), right.bias);
  }
  gpu_testing::ShuffleThreads(0);
}

TYPED_TEST(WriteBackTest, KeptSlotsComeFirstAndTheRestFollows) {
  KeptSlotsComeFirst<TypeParam>(true);
}
TYPED_TEST(WriteBackTest, KeptSlotsKeepTheirValuesWhenNothingWasFitted) {
  KeptSlotsComeFirst<TypeParam>(false);
}

}  // namespace
}  // namespace palimpsest::compaction
