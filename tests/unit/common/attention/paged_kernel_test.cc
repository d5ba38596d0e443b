#include "common/attention/paged_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace palimpsest::attention {
namespace {

// A cache whose slots a shuffled block table leads to. Numbers as the kernel reads them.
template <class Stored>
struct Case {
  int kv_heads, group, d, slots;
  std::vector<int32_t> table;
  std::vector<Stored> q, k, v;
  std::vector<float> bias;
  float scale;

  int64_t At(int slot, int h) const {
    return (int64_t{table[slot / kSlotsPerPage]} * kSlotsPerPage + slot % kSlotsPerPage) *
               kv_heads +
           h;
  }
  PagedCache<Stored> cache() const { return {k.data(), v.data(), bias.data(), kv_heads, d}; }
};

template <class Stored>
Case<Stored> Draw(std::mt19937& rng, int kv_heads, int group, int d, int slots) {
  std::normal_distribution<float> normal;
  const int pages = (slots + kSlotsPerPage - 1) / kSlotsPerPage + 3;
  Case<Stored> c{kv_heads, group, d,  slots, {},
                 {},       {},    {}, {},    1 / std::sqrt(static_cast<float>(d))};
  for (int i = 0; i < pages; ++i) c.table.push_back(i);
  std::shuffle(c.table.begin(), c.table.end(), rng);
  const auto fill = [&](std::vector<Stored>& x, size_t n, float size) {
    x.resize(n);
    for (Stored& y : x) Narrow(size * normal(rng), &y);
  };
  const size_t rows = static_cast<size_t>(pages) * kSlotsPerPage * kv_heads;
  fill(c.q, static_cast<size_t>(kv_heads) * group * d, 2);
  fill(c.k, rows * d, 2);
  fill(c.v, rows * d, 1);
  for (size_t i = 0; i < rows; ++i) c.bias.push_back(i % 3 == 0 ? 3 * normal(rng) : 0);
  return c;
}

// Which of the two ways a part is computed; one and the same where the processor has no other.
template <class Stored>
using Way = decltype(&AttendPart<Stored>);

template <class Stored>
std::vector<float> Attend(const Case<Stored>& c, int h, Way<Stored> attend = AttendPart<Stored>) {
  const int parts = PartsOf(c.slots);
  std::vector<float> scratch(ScratchOf(parts, c.group, c.d));
  const Stored* q = c.q.data() + static_cast<size_t>(h) * c.group * c.d;
  for (int p = parts - 1; p >= 0; --p) {
    attend(c.cache(), {c.table.data(), c.slots}, h, q, c.group, c.scale, p,
           scratch.data() + ScratchOf(p, c.group, c.d));
  }
  std::vector<Stored> o(static_cast<size_t>(c.group) * c.d);
  MergeParts(scratch.data(), parts, c.group, c.d, o.data());
  std::vector<float> out;
  for (Stored x : o) out.push_back(Widen(x));
  return out;
}

// softmax(scale q k + bias) v, one query head at a time, in fp64.
template <class Stored>
std::vector<double> Reference(const Case<Stored>& c, int h, double bias_weight = 1) {
  std::vector<double> out;
  for (int a = 0; a < c.group; ++a) {
    const Stored* q = c.q.data() + static_cast<size_t>(h * c.group + a) * c.d;
    std::vector<double> scores;
    double most = -INFINITY, sum = 0;
    for (int s = 0; s < c.slots; ++s) {
      double product = 0;
      for (int e = 0; e < c.d; ++e)
        product += double{Widen(q[e])} * Widen(c.k[c.At(s, h) * c.d + e]);
      scores.push_back(c.scale * product + bias_weight * c.bias[c.At(s, h)]);
      most = std::max(most, scores.back());
    }
    std::vector<double> o(c.d, 0);
    for (int s = 0; s < c.slots; ++s) {
      const double weight = std::exp(scores[s] - most);
      sum += weight;
      for (int e = 0; e < c.d; ++e) o[e] += weight * Widen(c.v[c.At(s, h) * c.d + e]);
    }
    for (double x : o) out.push_back(x / sum);
  }
  return out;
}

template <class Stored>
double WorstOver(std::mt19937& rng, double bias_weight, Way<Stored> attend = AttendPart<Stored>) {
  double worst = 0;
  for (const int d : {16, 32, 64, 80, 128, 20}) {
    for (const int slots : {1, 15, 16, 17, 100, 512, 513, 1500}) {
      for (const int group : {1, 2, 3}) {
        const auto c = Draw<Stored>(rng, 2, group, d, slots);
        for (int h = 0; h < 2; ++h) {
          const std::vector<float> got = Attend(c, h, attend);
          const std::vector<double> want = Reference(c, h, bias_weight);
          for (size_t i = 0; i < got.size(); ++i) {
            // bf16 output: half a unit in the last of 8 bits.
            const double slack = std::is_same_v<Stored, BFloat16> ? std::abs(want[i]) / 256 : 0;
            worst = std::max(worst, std::abs(got[i] - want[i]) - slack);
          }
        }
      }
    }
  }
  return worst;
}

TEST(PagedKernelTest, EqualsSoftmaxWithBiasInFp64) {
  std::mt19937 rng(1);
  EXPECT_LE(WorstOver<float>(rng, 1), 1e-5);
  EXPECT_LE(WorstOver<BFloat16>(rng, 1), 1e-5);
  EXPECT_LE(WorstOver<BFloat16>(rng, 1, AttendPartByLanes<BFloat16>), 1e-5);
}

TEST(PagedKernelTest, WithoutTheBiasItWouldBeFarOff) {
  std::mt19937 rng(1);
  EXPECT_GT(WorstOver<float>(rng, 0), 0.1);
  EXPECT_GT(WorstOver<BFloat16>(rng, 0), 0.1);
}

// A cache in which the pages lie elsewhere, and what no row sees is not a number.
template <class Stored>
void ExpectTheSameBitsElsewhere(std::mt19937& rng, int slots) {
  const auto c = Draw<Stored>(rng, 2, 3, 64, slots);
  auto moved = c;
  std::shuffle(moved.table.begin(), moved.table.end(), rng);
  for (Stored& x : moved.k) Narrow(NAN, &x);
  for (Stored& x : moved.v) Narrow(NAN, &x);
  std::fill(moved.bias.begin(), moved.bias.end(), NAN);
  for (int s = 0; s < c.slots; ++s) {
    for (int h = 0; h < 2; ++h) {
      std::copy_n(c.k.begin() + c.At(s, h) * c.d, c.d, moved.k.begin() + moved.At(s, h) * c.d);
      std::copy_n(c.v.begin() + c.At(s, h) * c.d, c.d, moved.v.begin() + moved.At(s, h) * c.d);
      moved.bias[moved.At(s, h)] = c.bias[c.At(s, h)];
    }
  }
  for (int h = 0; h < 2; ++h) EXPECT_EQ(Attend(c, h), Attend(moved, h)) << slots << " slots";
}

// What batch invariance and "an event that keeps all changes no bit" stand on.
TEST(PagedKernelTest, WhereThePagesLieAndWhatStandsBehindTheRowChangesNoBit) {
  std::mt19937 rng(2);
  for (const int slots : {1, 5, 16, 700}) {
    ExpectTheSameBitsElsewhere<float>(rng, slots);
    ExpectTheSameBitsElsewhere<BFloat16>(rng, slots);
  }
}

TEST(PagedKernelTest, AVeryNegativeBiasHidesASlotAndNothingElse) {
  std::mt19937 rng(3);
  auto c = Draw<float>(rng, 1, 1, 32, 40);
  for (int s = 8; s < 40; ++s) c.bias[c.At(s, 0)] = -1e4f;
  const std::vector<float> got = Attend(c, 0);
  c.slots = 8;
  const std::vector<float> want = Attend(c, 0);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6);
}

}  // namespace
}  // namespace palimpsest::attention
