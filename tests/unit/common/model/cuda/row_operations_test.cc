#include "common/model/cuda/row_operations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::model {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Error;
using gpu_testing::Normals;
using gpu_testing::Widened;

// Stored results that are rounded once or twice on the way.
template <class Stored>
constexpr double kTolerance = 2 * gpu_testing::kTolerance<Stored>;

template <class Stored>
class RowOperationsTest : public testing::Test {};
using Types = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(RowOperationsTest, Types);

std::vector<double> Normalised(const std::vector<double>& x, const std::vector<double>& weight,
                               double eps) {
  const size_t n = weight.size();
  std::vector<double> out(x.size());
  for (size_t row = 0; row < x.size() / n; ++row) {
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += x[row * n + i] * x[row * n + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (size_t i = 0; i < n; ++i) out[row * n + i] = x[row * n + i] * scale * weight[i];
  }
  return out;
}

TYPED_TEST(RowOperationsTest, NormTakesTheResidualInFirst) {
  std::mt19937 rng(1);
  for (const int n : {8, 64, 1024, 2056, 4104}) {
    const int rows = 3;
    const auto x = Normals<TypeParam>(rng, rows * n, 1), add = Normals<TypeParam>(rng, rows * n, 1);
    const auto weight = Normals<TypeParam>(rng, n, 1);
    for (const bool adds : {true, false}) {
      const DeviceArray<TypeParam> x_there(x), add_there(add), weight_there(weight), out(x.size());
      ASSERT_TRUE(AddAndNorm<TypeParam>({.x = x_there.data(),
                                         .add = adds ? add_there.data() : nullptr,
                                         .weight = weight_there.data(),
                                         .out = out.data(),
                                         .rows = rows,
                                         .n = n,
                                         .eps = 1e-6f},
                                        nullptr)
                      .ok());
      std::vector<double> sum = Widened(x);
      for (size_t i = 0; adds && i < sum.size(); ++i) sum[i] += Widen(add[i]);
      EXPECT_LT(Error(Widened(x_there.Read()), sum), kTolerance<TypeParam>);
      const std::vector<double> got = Widened(out.Read()), w = Widened(weight);
      EXPECT_LT(Error(got, Normalised(sum, w, 1e-6)), kTolerance<TypeParam>) << "n " << n;
      if (adds) {
        EXPECT_GT(Error(got, Normalised(Widened(x), w, 1e-6)), 10 * kTolerance<TypeParam>);
      }
      EXPECT_GT(Error(got, Normalised(sum, std::vector<double>(n, 1.0), 1e-6)),
                10 * kTolerance<TypeParam>);
    }
  }
}

template <class Stored>
struct Heads {
  int rows = 5, heads, kv_heads, d;
  bool norms;
  std::vector<Stored> qkv, q_norm, k_norm;
  std::vector<int32_t> positions = {0, 1, 77, 4096, 40959};
  std::vector<float> frequencies;
  std::vector<int64_t> slots;  // [rows, Hk]
  int pool = 24;
};

// All heads in fp64, in the order of qkv; positions off by `shift`.
template <class Stored>
std::vector<double> Turned(const Heads<Stored>& c, int shift) {
  const int width = c.heads + 2 * c.kv_heads, d = c.d;
  std::vector<double> out = Widened(c.qkv);
  for (int row = 0; row < c.rows; ++row) {
    for (int head = 0; head < c.heads + c.kv_heads; ++head) {
      const auto begin = out.begin() + (row * width + head) * d;
      std::vector<double> x(begin, begin + d);
      if (c.norms) x = Normalised(x, Widened(head < c.heads ? c.q_norm : c.k_norm), 1e-6);
      for (int i = 0; i < d / 2; ++i) {
        // The angle is fp32 by contract: its rounding turns far positions visibly.
        const double angle = static_cast<float>(c.positions[row] + shift) * c.frequencies[i];
        const double cos = std::cos(angle), sin = std::sin(angle);
        begin[i] = x[i] * cos - x[i + d / 2] * sin;
        begin[i + d / 2] = x[i + d / 2] * cos + x[i] * sin;
      }
    }
  }
  return out;
}

template <class Stored>
Heads<Stored> DrawHeads(std::mt19937& rng, int heads, int kv_heads, int d, bool norms) {
  Heads<Stored> c{.heads = heads, .kv_heads = kv_heads, .d = d, .norms = norms};
  c.qkv = Normals<Stored>(rng, c.rows * (heads + 2 * kv_heads) * d, 1);
  c.q_norm = Normals<Stored>(rng, d, 1), c.k_norm = Normals<Stored>(rng, d, 1);
  for (int i = 0; i < d / 2; ++i)
    c.frequencies.push_back(static_cast<float>(std::pow(1e6, -2.0 * i / d)));
  for (int i = 0; i < c.rows * kv_heads; ++i) c.slots.push_back(i == 3 ? -1 : (7 * i + 2) % c.pool);
  return c;
}

// What the kernel left, in the order of qkv; what it should leave alone is checked here.
template <class Stored>
std::vector<double> RunHeads(const Heads<Stored>& c) {
  const DeviceArray<Stored> qkv(c.qkv), q_norm(c.q_norm), k_norm(c.k_norm);
  const DeviceArray<int32_t> positions(c.positions);
  const DeviceArray<float> frequencies(c.frequencies);
  const DeviceArray<int64_t> slots(c.slots);
  const size_t places = static_cast<size_t>(c.pool) * c.kv_heads;
  const DeviceArray<Stored> q(c.rows * c.heads * c.d), k(places * c.d), v(places * c.d);
  const DeviceArray<float> bias(places);
  EXPECT_TRUE(RotateAndCache<Stored>({.qkv = qkv.data(),
                                      .q_norm = c.norms ? q_norm.data() : nullptr,
                                      .k_norm = c.norms ? k_norm.data() : nullptr,
                                      .positions = positions.data(),
                                      .frequencies = frequencies.data(),
                                      .slots = slots.data(),
                                      .q = q.data(),
                                      .k_pool = k.data(),
                                      .v_pool = v.data(),
                                      .bias_pool = bias.data(),
                                      .rows = c.rows,
                                      .heads = c.heads,
                                      .kv_heads = c.kv_heads,
                                      .d = c.d,
                                      .eps = 1e-6f},
                                     nullptr)
                  .ok());
  const int width = c.heads + 2 * c.kv_heads;
  std::vector<double> out = Widened(c.qkv);  // heads that go nowhere are not compared
  const auto q_at = Widened(q.Read()), k_at = Widened(k.Read()), v_at = Widened(v.Read());
  const std::vector<float> bias_at = bias.Read();
  std::vector<uint8_t> written(places, 0);
  for (int row = 0; row < c.rows; ++row) {
    auto to = out.begin() + row * width * c.d;
    std::copy_n(q_at.begin() + row * c.heads * c.d, c.heads * c.d, to);
    for (int h = 0; h < c.kv_heads; ++h) {
      const int64_t slot = c.slots[row * c.kv_heads + h];
      if (slot < 0) continue;
      const int64_t place = slot * c.kv_heads + h;
      written[place] = 1;
      EXPECT_EQ(bias_at[place], 0.0f);
      std::copy_n(k_at.begin() + place * c.d, c.d, to + (c.heads + h) * c.d);
      std::copy_n(v_at.begin() + place * c.d, c.d, to + (c.heads + c.kv_heads + h) * c.d);
    }
  }
  for (size_t i = 0; i < places; ++i) {
    if (!written[i]) {
      EXPECT_TRUE(std::isnan(bias_at[i]) && std::isnan(k_at[i * c.d]));
    }
  }
  return out;
}

TYPED_TEST(RowOperationsTest, HeadsAreNormalisedTurnedByTheirPositionsAndCached) {
  std::mt19937 rng(2);
  for (const auto [heads, kv_heads] : {std::array{4, 2}, std::array{1, 1}, std::array{7, 1}}) {
    for (const int d : {64, 128}) {
      for (const bool norms : {true, false}) {
        const auto c = DrawHeads<TypeParam>(rng, heads, kv_heads, d, norms);
        const int width = heads + 2 * kv_heads;
        std::vector<double> right = Turned(c, 0), late = Turned(c, 1);
        for (size_t i = 0; i < c.slots.size(); ++i) {
          if (c.slots[i] >= 0) continue;
          const size_t head = i / kv_heads * width + heads + i % kv_heads;
          for (auto* x : {&right, &late})
            std::copy_n(Widened(c.qkv).begin() + head * d, d, x->begin() + head * d);
        }
        const std::vector<double> got = RunHeads(c);
        EXPECT_LT(Error(got, right), kTolerance<TypeParam>) << heads << " heads, d " << d;
        EXPECT_GT(Error(got, late), 10 * kTolerance<TypeParam>);
      }
    }
  }
}

TYPED_TEST(RowOperationsTest, GateIsSiluTimesUp) {
  std::mt19937 rng(3);
  for (const int n : {8, 2048, 3080}) {
    const int rows = 3;
    auto gate_up = Normals<TypeParam>(rng, 2 * rows * n, 4);
    Narrow(-200.0f, &gate_up[0]), Narrow(200.0f, &gate_up[1]);
    const DeviceArray<TypeParam> in(gate_up), out(rows * n);
    ASSERT_TRUE(Gate(in.data(), rows, n, out.data(), nullptr).ok());
    std::vector<double> right(rows * n), swapped(rows * n);
    const std::vector<double> x = Widened(gate_up);
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < n; ++i) {
        const double gate = x[2 * row * n + i], up = x[(2 * row + 1) * n + i];
        right[row * n + i] = gate / (1 + std::exp(-gate)) * up;
        swapped[row * n + i] = up / (1 + std::exp(-up)) * gate;
      }
    }
    const std::vector<double> got = Widened(out.Read());
    EXPECT_LT(Error(got, right), kTolerance<TypeParam>);
    EXPECT_GT(Error(got, swapped), 10 * kTolerance<TypeParam>);
  }
}

TEST(TokenLogProbsTest, AreTheLogSoftmaxAtTheTargets) {
  std::mt19937 rng(4);
  for (const int vocabulary : {1, 5, 1023, 1025, 5000}) {
    const int rows = 4;
    std::vector<float> logits = Normals<float>(rng, rows * vocabulary, 8);
    if (vocabulary > 5) logits[2] = -INFINITY, logits[vocabulary] = 300;
    std::vector<int32_t> targets = {vocabulary - 1, 0, vocabulary / 2, -1};
    const DeviceArray<float> logits_there(logits), logprobs(rows);
    const DeviceArray<int32_t> targets_there(targets);
    const float temperature = 0.7f;
    ASSERT_TRUE(TokenLogProbs({.logits = logits_there.data(),
                               .targets = targets_there.data(),
                               .logprobs = logprobs.data(),
                               .rows = rows,
                               .vocabulary = vocabulary,
                               .temperature = temperature},
                              nullptr)
                    .ok());
    const std::vector<float> got = logprobs.Read();
    const auto log_softmax = [&](int row, double by) {
      if (targets[row] < 0) return 0.0;
      const float* z = logits.data() + row * vocabulary;
      const double most = *std::max_element(z, z + vocabulary);
      double sum = 0;
      for (int i = 0; i < vocabulary; ++i) sum += std::exp((z[i] - most) / by);
      return (z[targets[row]] - most) / by - std::log(sum);
    };
    for (int row = 0; row < rows; ++row) {
      const double right = log_softmax(row, temperature);
      EXPECT_NEAR(got[row], right, 1e-5 * std::max(10.0, std::abs(right))) << vocabulary;
    }
    if (vocabulary > 1) {
      EXPECT_GT(std::abs(got[2] - log_softmax(2, 1.0)), 0.1);
    }
  }
}

TEST(RowOperationsArgumentsTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(AddAndNorm<float>({.rows = 1, .n = 12}, nullptr).error,
            "n=12 is no multiple of 8 up to 32768");
  EXPECT_EQ(RotateAndCache<float>({.rows = 1, .heads = 1, .kv_heads = 1, .d = 80}, nullptr).error,
            "d=80 is neither 64 nor 128");
  EXPECT_EQ(Gate<float>(nullptr, 1, 9, nullptr, nullptr).error, "n=9 is no multiple of 8");
  EXPECT_EQ(TokenLogProbs({.rows = 1, .vocabulary = 2, .temperature = 0}, nullptr).error,
            "temperature=0.000000 is not above 0");
}

}  // namespace
}  // namespace palimpsest::model
