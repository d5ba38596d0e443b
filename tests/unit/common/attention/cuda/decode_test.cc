#include "common/attention/cuda/decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::attention {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Error;
using gpu_testing::kTolerance;
using gpu_testing::Normals;
using gpu_testing::Widened;

struct Sizes {
  int kv_heads, group, d;
};

// A cache whose pages a shuffled table leads to; every row has its own pages, and each of its KV
// heads its own number of slots. Slots that nobody sees are NaN.
template <class Stored>
struct Case {
  Sizes sizes;
  int table_pages = 0;
  std::vector<int32_t> tables, slots;
  std::vector<Stored> q, k, v;
  std::vector<float> bias;
  float scale = 0;

  int rows() const { return static_cast<int>(slots.size()) / sizes.kv_heads; }
  int heads() const { return sizes.kv_heads * sizes.group; }
  int64_t At(int row, int slot, int h) const {
    const int64_t page = tables[row * table_pages + slot / kSlotsPerPage];
    return (page * kSlotsPerPage + slot % kSlotsPerPage) * sizes.kv_heads + h;
  }
};

template <class Stored>
Case<Stored> Draw(std::mt19937& rng, Sizes sizes, const std::vector<int>& slots_of_rows) {
  Case<Stored> c{.sizes = sizes, .scale = 1 / std::sqrt(static_cast<float>(sizes.d))};
  const int rows = static_cast<int>(slots_of_rows.size());
  const int most = *std::max_element(slots_of_rows.begin(), slots_of_rows.end());
  c.table_pages = most / kSlotsPerPage + 1;
  c.tables.resize(rows * c.table_pages);
  std::iota(c.tables.begin(), c.tables.end(), 0);
  std::shuffle(c.tables.begin(), c.tables.end(), rng);
  for (const int slots : slots_of_rows) {
    for (int h = 0; h < sizes.kv_heads; ++h)
      c.slots.push_back(std::max(slots - 7 * h, std::min(slots, 1)));
  }
  const size_t places = c.tables.size() * kSlotsPerPage * sizes.kv_heads;
  const float nan = std::nanf("");
  std::vector<uint8_t> seen(places, 0);
  for (int row = 0; row < rows; ++row) {
    for (int h = 0; h < sizes.kv_heads; ++h) {
      for (int i = 0; i < c.slots[row * sizes.kv_heads + h]; ++i) seen[c.At(row, i, h)] = 1;
    }
  }
  c.q = Normals<Stored>(rng, static_cast<size_t>(rows) * c.heads() * sizes.d, 2);
  c.k = Normals<Stored>(rng, places * sizes.d, 2);
  c.v = Normals<Stored>(rng, places * sizes.d, 1);
  c.bias = Normals<float>(rng, places, 2);
  // The last slot weighs much: who forgets it is found.
  for (int row = 0; row < rows; ++row) {
    for (int h = 0; h < sizes.kv_heads; ++h) {
      if (const int last = c.slots[row * sizes.kv_heads + h] - 1; last >= 0) {
        c.bias[c.At(row, last, h)] = 12;
      }
    }
  }
  for (size_t i = 0; i < places; ++i) {
    if (seen[i]) continue;
    for (int x = 0; x < sizes.d; ++x)
      Narrow(nan, &c.k[i * sizes.d + x]), Narrow(nan, &c.v[i * sizes.d + x]);
    c.bias[i] = nan;
  }
  return c;
}

enum class Mistake { kNone, kNoBias, kLastSlotMissing, kNextHeadsQueries };

// softmax(scale q k' + bias) v in fp64, row by row.
template <class Stored>
std::vector<double> Reference(const Case<Stored>& c, Mistake mistake = Mistake::kNone) {
  const int d = c.sizes.d, group = c.sizes.group;
  std::vector<double> o(c.q.size(), 0);
  for (int row = 0; row < c.rows(); ++row) {
    for (int head = 0; head < c.heads(); ++head) {
      const int h = head / group;
      const int asks = mistake == Mistake::kNextHeadsQueries ? (head + 1) % c.heads() : head;
      int slots = c.slots[row * c.sizes.kv_heads + h];
      if (mistake == Mistake::kLastSlotMissing && slots > 1) --slots;
      std::vector<double> weights(slots);
      double most = -INFINITY, sum = 0;
      for (int i = 0; i < slots; ++i) {
        const int64_t at = c.At(row, i, h);
        double dot = 0;
        for (int x = 0; x < d; ++x)
          dot += double{Widen(c.q[(row * c.heads() + asks) * d + x])} * Widen(c.k[at * d + x]);
        weights[i] = c.scale * dot + (mistake == Mistake::kNoBias ? 0 : c.bias[at]);
        most = std::max(most, weights[i]);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - most);
      for (int i = 0; i < slots; ++i) {
        for (int x = 0; x < d; ++x)
          o[(row * c.heads() + head) * d + x] +=
              weights[i] / sum * Widen(c.v[c.At(row, i, h) * d + x]);
      }
    }
  }
  return o;
}

template <class Stored>
std::vector<Stored> Run(const Case<Stored>& c) {
  const DeviceArray<Stored> q(c.q), k(c.k), v(c.v), o(c.q.size());
  const DeviceArray<float> bias(c.bias);
  const DeviceArray<int32_t> tables(c.tables), slots(c.slots);
  const int most = *std::max_element(c.slots.begin(), c.slots.end());
  const DeviceArray<float> scratch(DecodeScratch(c.rows(), c.heads(), c.sizes.d, most));
  const cuda::Launched launched =
      Decode<Stored>({.cache = {k.data(), v.data(), bias.data(), c.sizes.kv_heads, c.sizes.d},
                      .q = q.data(),
                      .o = o.data(),
                      .tables = tables.data(),
                      .slots = slots.data(),
                      .scratch = scratch.data(),
                      .rows = c.rows(),
                      .heads = c.heads(),
                      .table_pages = c.table_pages,
                      .max_slots = most,
                      .scale = c.scale},
                     nullptr);
  EXPECT_TRUE(launched.ok()) << launched.error;
  scratch.Read();
  return o.Read();
}

template <class Stored>
class DecodeTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(DecodeTest, Types);

TYPED_TEST(DecodeTest, EqualsTheSoftmaxInFp64ForEveryShapeOfHeadsAndNumberOfSlots) {
  std::mt19937 rng(1);
  for (const Sizes sizes : {Sizes{1, 1, 64}, Sizes{2, 2, 128}, Sizes{2, 4, 128}, Sizes{1, 7, 64},
                            Sizes{1, 8, 128}, Sizes{1, 12, 64}, Sizes{3, 3, 64}}) {
    // One slot; a page and one; a part less one, exactly, and one more; several parts; none.
    const auto c = Draw<TypeParam>(rng, sizes, {1, 17, 255, 256, 257, 700, 0});
    const std::vector<double> o = Widened(Run(c));
    EXPECT_LT(Error(o, Reference(c)), kTolerance<TypeParam>)
        << sizes.kv_heads << " KV heads of " << sizes.group << ", d " << sizes.d;
    for (const Mistake mistake :
         {Mistake::kNoBias, Mistake::kLastSlotMissing, Mistake::kNextHeadsQueries}) {
      if (c.heads() == 1 && mistake == Mistake::kNextHeadsQueries) continue;
      EXPECT_GT(Error(o, Reference(c, mistake)), 10 * kTolerance<TypeParam>);
    }
  }
}

TYPED_TEST(DecodeTest, GivesARowTheSameBitsAloneAndAmongOthers) {
  std::mt19937 rng(2);
  const Sizes sizes{2, 4, 64};
  const auto together = Draw<TypeParam>(rng, sizes, {300, 40, 900, 5});
  const std::vector<TypeParam> o = Run(together);
  const int width = together.heads() * sizes.d;
  for (int row = 0; row < together.rows(); ++row) {
    Case<TypeParam> alone = together;
    const auto cut = [&](auto& x, int count) {
      x = {x.begin() + row * count, x.begin() + (row + 1) * count};
    };
    cut(alone.tables, together.table_pages);
    cut(alone.slots, sizes.kv_heads);
    cut(alone.q, width);
    const std::vector<TypeParam> only = Run(alone);
    EXPECT_EQ(std::memcmp(only.data(), o.data() + row * width, width * sizeof(TypeParam)), 0)
        << "row " << row;
  }
}

TYPED_TEST(DecodeTest, GivesTheSameBitsInWhateverOrderThreadsRun) {
  std::mt19937 rng(3);
  const auto c = Draw<TypeParam>(rng, {2, 4, 128}, {600, 33});
  const std::vector<TypeParam> o = Run(c);
  for (const uint64_t seed : {1, 2, 3}) {
    gpu_testing::ShuffleThreads(seed);
    const std::vector<TypeParam> again = Run(c);
    EXPECT_EQ(std::memcmp(o.data(), again.data(), o.size() * sizeof(TypeParam)), 0);
  }
  gpu_testing::ShuffleThreads(0);
}

TEST(DecodeArgumentsTest, RefusesWhatItCannotDo) {
  DecodeBatch<float> batch{.cache = {.kv_heads = 2, .d = 96}, .rows = 1, .heads = 4};
  EXPECT_EQ(Decode(batch, nullptr).error, "d=96 is neither 64 nor 128");
  batch.heads = 5;
  EXPECT_EQ(Decode(batch, nullptr).error, "heads=5 is no multiple of kv_heads=2");
  batch = {
      .cache = {.kv_heads = 2, .d = 64}, .rows = 1, .heads = 4, .table_pages = 2, .max_slots = 33};
  EXPECT_EQ(Decode(batch, nullptr).error, "max_slots=33 do not fit into table_pages=2");
}

}  // namespace
}  // namespace palimpsest::attention
