#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/base/random.h"
#include "common/model/divergence_torch.h"
#include "tests/unit/common/model/model_testing.h"

namespace palimpsest::model {
namespace {

// ----- The equations once more, in plain doubles: one row, its logits and those of the other.

struct Row {
  double to_other = 0, from_other = 0, acceptance = 0;
};

std::vector<double> Softmax(const std::vector<double>& logits, double temperature) {
  double sum = 0;
  std::vector<double> p;
  for (double z : logits) sum += p.emplace_back(std::exp(z / temperature));
  for (double& x : p) x /= sum;
  return p;
}

// `moved` are the logits that the derivative is taken of.
Row SlowRow(const std::vector<double>& moved, const std::vector<double>& other,
            double temperature) {
  const std::vector<double> p = Softmax(moved, temperature), q = Softmax(other, temperature);
  Row row;
  for (size_t j = 0; j < p.size(); ++j) {
    row.to_other += p[j] * std::log(p[j] / q[j]);
    row.from_other += q[j] * std::log(q[j] / p[j]);
    row.acceptance += std::min(p[j], q[j]);
  }
  return row;
}

// A decoder whose head is the identity: hidden rows are logits.
constexpr int kVocab = 24;
std::unique_ptr<Decoder> IdentityHead() {
  ModelConfig config = SmallConfig(Architecture::kQwen3);
  config.vocab = kVocab;
  auto model = Decoder::Random(config, 4, DType::kFloat64);
  const c10::NoGradGuard no_grad;
  at::Tensor(model->HeadWeight()).copy_(at::eye(kVocab, at::kDouble));
  return model;
}

at::Tensor RandomRows(int64_t rows, uint64_t seed, double scale) {
  RandomStream random(seed);
  at::Tensor all = at::empty({rows, kVocab}, at::kDouble);
  double* values = all.mutable_data_ptr<double>();
  for (int64_t i = 0; i < all.numel(); ++i) values[i] = scale * random.Normal();
  return all;
}

std::vector<double> LogitsOf(const at::Tensor& rows, int64_t row) {
  const double* first = rows.const_data_ptr<double>() + row * kVocab;
  return {first, first + kVocab};
}

TEST(CompareRowsTest, ValuesAndSlopesAreThoseOfTheEquations) {
  const auto model = IdentityHead();
  for (const double temperature : {1.0, 0.7}) {
    for (const int64_t n : {1, 3, 7}) {
      const at::Tensor rows = RandomRows(n, 10 + n, 2).requires_grad_(true);
      const at::Tensor other = RandomRows(n, 20 + n, 2);
      const RowDivergence d = CompareRows(*model, rows, other, temperature, 2);
      (d.to_other.sum() * 0.3 + d.from_other.sum() * -1.7).backward();
      for (int64_t row = 0; row < n; ++row) {
        const std::vector<double> own = LogitsOf(rows, row), others = LogitsOf(other, row);
        const Row slow = SlowRow(own, others, temperature);
        EXPECT_NEAR(d.to_other[row].item<double>(), slow.to_other, 1e-13);
        EXPECT_NEAR(d.from_other[row].item<double>(), slow.from_other, 1e-13);
        EXPECT_NEAR(d.acceptance[row].item<double>(), slow.acceptance, 1e-13);
        for (int j = 0; j < kVocab; ++j) {
          const auto value = [&](double by) {
            std::vector<double> moved = own;
            moved[j] += by;
            const Row r = SlowRow(moved, others, temperature);
            return 0.3 * r.to_other - 1.7 * r.from_other;
          };
          constexpr double kStep = 1e-5;
          EXPECT_NEAR(rows.grad()[row][j].item<double>(),
                      (value(kStep) - value(-kStep)) / (2 * kStep), 1e-8);
        }
      }
    }
  }
}

TEST(CompareRowsTest, EqualRowsAreNoDistanceApartAndPullNowhere) {
  const auto model = IdentityHead();
  const at::Tensor rows = RandomRows(5, 1, 3).requires_grad_(true);
  const RowDivergence d = CompareRows(*model, rows, rows, 1, 2);
  EXPECT_EQ(d.to_other.abs().max().item<double>(), 0);
  EXPECT_EQ(d.from_other.abs().max().item<double>(), 0);
  EXPECT_NEAR((d.acceptance - 1).abs().max().item<double>(), 0, 1e-14);
  (d.to_other + d.from_other).sum().backward();
  EXPECT_EQ(rows.grad().abs().max().item<double>(), 0);
}

// ----- Against autograd over all rows at once, where the head has a gradient too.

struct Answer {
  at::Tensor to_other, from_other, acceptance, of_hidden, of_head;
};

constexpr int64_t kRows = 11;
at::Tensor Hidden(double phase) {
  return at::sin(at::arange(kRows * 24, at::kDouble) * 1.7 + phase).mul_(3).view({kRows, 24});
}
// Weights of the two divergences, of both signs.
at::Tensor Pull(double phase) { return at::cos(at::arange(kRows, at::kDouble) + phase); }

std::unique_ptr<Decoder> Model(DType dtype) {
  auto model = Decoder::Random(SmallConfig(Architecture::kQwen3), 4, dtype);
  for (auto [name, tensor] : model->Parameters()) tensor.requires_grad_(true);
  return model;
}

Answer Chunked(const Decoder& model, double temperature, int64_t chunk_rows, bool both = true) {
  const auto like = model.HeadWeight().scalar_type();
  const at::Tensor hidden = Hidden(0).to(like).requires_grad_(true);
  const at::Tensor other = Hidden(0.4).to(like).requires_grad_(true);
  const RowDivergence d = CompareRows(model, hidden, other, temperature, chunk_rows);
  at::Tensor loss = (d.to_other.to(at::kDouble) * Pull(0)).sum();
  if (both) loss = loss + (d.from_other.to(at::kDouble) * Pull(2)).sum();
  loss.backward();
  EXPECT_FALSE(other.grad().defined()) << "the other side is a constant";
  return {d.to_other, d.from_other, d.acceptance, hidden.grad(), model.HeadWeight().grad()};
}

Answer Plain(const Decoder& model, double temperature, bool both = true) {
  const at::Tensor hidden =
      Hidden(0).to(model.HeadWeight().scalar_type()).to(at::kDouble).requires_grad_(true);
  const at::Tensor other = Hidden(0.4).to(model.HeadWeight().scalar_type()).to(at::kDouble);
  const at::Tensor head = model.HeadWeight().detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor logp = (hidden.matmul(head.t()) / temperature).log_softmax(-1);
  const at::Tensor logq = (other.matmul(head.detach().t()) / temperature).log_softmax(-1);
  const at::Tensor to = (logp.exp() * (logp - logq)).sum(1);
  const at::Tensor from = (logq.exp() * (logq - logp)).sum(1);
  at::Tensor loss = (to * Pull(0)).sum();
  if (both) loss = loss + (from * Pull(2)).sum();
  loss.backward();
  return {to, from, at::minimum(logp.exp(), logq.exp()).sum(1), hidden.grad(), head.grad()};
}

void ExpectNear(const Answer& a, const Answer& b, double tolerance) {
  const auto near = [&](const at::Tensor& x, const at::Tensor& y) {
    return (x.to(at::kDouble) - y).abs().max().item<double>() <=
           tolerance * (1 + y.abs().max().item<double>());
  };
  EXPECT_TRUE(near(a.to_other, b.to_other));
  EXPECT_TRUE(near(a.from_other, b.from_other));
  EXPECT_TRUE(near(a.acceptance, b.acceptance));
  EXPECT_TRUE(near(a.of_hidden, b.of_hidden));
  EXPECT_TRUE(near(a.of_head, b.of_head));
}

TEST(CompareRowsTest, AgreesWithPlainAutogradHoweverRowsAreCut) {
  for (const int64_t chunk_rows : {1, 4, 11, 512}) {
    for (const double temperature : {1.0, 0.6}) {
      for (const bool both : {true, false}) {
        const auto wide = Model(DType::kFloat64), single = Model(DType::kFloat32);
        ExpectNear(Chunked(*wide, temperature, chunk_rows, both), Plain(*wide, temperature, both),
                   1e-12);
        ExpectNear(Chunked(*single, temperature, chunk_rows, both),
                   Plain(*single, temperature, both), 1e-5);
      }
    }
  }
}

TEST(CompareRowsTest, RowsThatAreWorldsApartStayFinite) {
  const auto model = Model(DType::kFloat32);
  const at::Tensor hidden = (Hidden(0) * 1e3).to(at::kFloat).requires_grad_(true);
  const RowDivergence d = CompareRows(*model, hidden, (Hidden(2) * 1e3).to(at::kFloat), 1, 4);
  (d.to_other + d.from_other).sum().backward();
  for (const at::Tensor& x : {d.to_other, d.from_other, d.acceptance, hidden.grad()}) {
    EXPECT_TRUE(x.isfinite().all().item<bool>());
  }
  EXPECT_GT(d.to_other.max().item<float>(), 100);
}

}  // namespace
}  // namespace palimpsest::model
