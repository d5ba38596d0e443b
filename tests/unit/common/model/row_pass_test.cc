#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "common/base/bfloat16.h"
#include "common/model/causal.h"
#include "common/model/decoder.h"
#include "common/model/row_kernels.h"
#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

// Packed: as a processor without products of bf16 computes them; else as this one does.
template <class Stored>
double WorstProduct(std::mt19937& rng, bool packed, bool drop_last) {
  std::normal_distribution<float> normal;
  double worst = 0;
  for (const int64_t k : {16, 24, 32, 40, 64, 7, 129, 1000}) {
    for (const int64_t n : {1, 4, 7, 16}) {
      for (const int64_t m : {1, 2, 3, 4, 5, 8, 70, 300}) {
        std::vector<Stored> x(m * k), w(n * k);
        for (Stored& v : x) Narrow(normal(rng), &v);
        for (Stored& v : w) Narrow(normal(rng), &v);
        std::vector<float> scratch, y(m * n);
        Product<Stored> product{w.data(), x.data(), m, k};
        packed ? Pack(product, scratch) : Prepare(product, scratch);
        MultiplyRows(product, 0, n, y.data(), n);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t c = 0; c < k - (drop_last ? 1 : 0); ++c)
              sum += double{Widen(x[i * k + c])} * Widen(w[j * k + c]);
            worst = std::max(worst, std::abs(sum - y[i * n + j]));
          }
        }
      }
    }
  }
  return worst;
}

TEST(RowKernelsTest, ProductsEqualThoseInFp64) {
  std::mt19937 rng(1);
  for (const bool packed : {false, true}) {
    EXPECT_LE(WorstProduct<float>(rng, packed, false), 2e-4);
    EXPECT_LE(WorstProduct<BFloat16>(rng, packed, false), 2e-4);
  }
}

TEST(RowKernelsTest, ADroppedInputWouldShow) {
  std::mt19937 rng(1);
  for (const bool packed : {false, true}) {
    EXPECT_GT(WorstProduct<float>(rng, packed, true), 0.1);
    EXPECT_GT(WorstProduct<BFloat16>(rng, packed, true), 0.1);
  }
}

// The vectors' arithmetic against the same of single numbers, to the bit; NaN and infinity too.
template <class Stored>
void ExpectStoredAsOneByOne(std::mt19937& rng) {
  std::normal_distribution<float> normal;
  for (const int64_t n : {1, 7, 8, 21, 64}) {
    std::vector<float> sums(n);
    std::vector<Stored> bias(n), before(n);
    for (int64_t i = 0; i < n; ++i) {
      sums[i] = normal(rng) * 100;
      Narrow(normal(rng), &bias[i]);
      Narrow(normal(rng), &before[i]);
    }
    sums[0] = std::numeric_limits<float>::quiet_NaN();
    if (n > 1) sums[1] = std::numeric_limits<float>::infinity();
    for (const bool add : {false, true}) {
      std::vector<Stored> out = before;
      StoreRow(sums.data(), bias.data(), n, add, out.data());
      for (int64_t i = 0; i < n; ++i) {
        const float sum = sums[i] + Widen(bias[i]);
        const float want = Rounded<Stored>(add ? Widen(before[i]) + Rounded<Stored>(sum) : sum);
        EXPECT_EQ(std::isnan(want), std::isnan(Widen(out[i])));
        if (!std::isnan(want)) {
          EXPECT_EQ(want, Widen(out[i])) << i << " of " << n;
        }
      }
    }
  }
}

TEST(RowKernelsTest, RowsAreStoredAsOneByOne) {
  std::mt19937 rng(2);
  ExpectStoredAsOneByOne<float>(rng);
  ExpectStoredAsOneByOne<BFloat16>(rng);
}

TEST(RowKernelsTest, GatesEqualThoseInFp64WhateverTheirNumber) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  for (const int64_t n : {1, 5, 8, 19, 40}) {
    std::vector<float> gate(n), up(n), out(n);
    for (int64_t i = 0; i < n; ++i) gate[i] = 4 * normal(rng), up[i] = normal(rng);
    GateRow(gate.data(), up.data(), n, out.data());
    for (int64_t i = 0; i < n; ++i) {
      const double want = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      EXPECT_NEAR(out[i], want, 1e-6 * (1 + std::abs(want)));
    }
  }
}

struct Rows {
  at::Tensor ids, positions;
};
Rows Draw(int64_t n) { return {at::randint(0, 61, {n}, at::kLong), at::arange(n, at::kLong)}; }
at::Tensor LogitsOf(const Decoder& decoder, const Rows& rows, std::vector<int64_t> lengths) {
  c10::NoGradGuard no_grad;
  CausalContext context(std::move(lengths));
  return decoder.Logits(decoder.Hidden(rows.ids, rows.positions, context));
}
double Worst(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

class RowPassTest : public testing::TestWithParam<Architecture> {};

TEST_P(RowPassTest, GivesThePlainPassesNumbers) {
  const ModelConfig config = SmallConfig(GetParam());
  for (const int64_t n : {1, 2, 9, 64}) {
    const Rows rows = Draw(n);
    const auto plain = Decoder::Random(config, 3, DType::kFloat32);
    const auto fast = Decoder::Random(config, 3, DType::kFloat32, Kernels::kFast);
    const at::Tensor want = LogitsOf(*plain, rows, {n});
    EXPECT_LE(Worst(want, LogitsOf(*fast, rows, {n})), 2e-5 * want.abs().max().item<double>());
  }
}

// bf16 rounds after each operation: both paths are equally far from the same weights in fp32.
TEST_P(RowPassTest, RoundsInBf16WhereThePlainPassDoes) {
  const ModelConfig config = SmallConfig(GetParam());
  const Rows rows = Draw(64);
  const auto plain = Decoder::Random(config, 3, DType::kBFloat16);
  const auto fast = Decoder::Random(config, 3, DType::kBFloat16, Kernels::kFast);
  const auto exact = Decoder::Random(config, 3, DType::kFloat32);
  ASSERT_TRUE(exact->CopyWeights(plain->Parameters()).ok());
  const at::Tensor truth = LogitsOf(*exact, rows, {64});
  const auto error = [&](const Decoder& d) {
    return (LogitsOf(d, rows, {64}) - truth).to(at::kDouble).norm().item<double>();
  };
  EXPECT_LE(error(*fast), 1.1 * error(*plain));
}

TEST_P(RowPassTest, ARowsBitsDoNotHangOnItsCompany) {
  const ModelConfig config = SmallConfig(GetParam());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto fixed = Decoder::Random(config, 5, dtype, Kernels::kFixed);
    const Rows a = Draw(11), b = Draw(90);
    const Rows both{at::cat({b.ids, a.ids}), at::cat({b.positions, a.positions})};
    const at::Tensor alone = LogitsOf(*fixed, a, {11});
    const at::Tensor among = LogitsOf(*fixed, both, {90, 11}).narrow(0, 90, 11);
    EXPECT_TRUE(at::equal(alone, among));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, RowPassTest,
                         testing::Values(Architecture::kQwen3, Architecture::kQwen2,
                                         Architecture::kLlama));

}  // namespace
}  // namespace palimpsest::model
