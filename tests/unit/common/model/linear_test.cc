#include "common/model/linear.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

namespace palimpsest::model {
namespace {

// Numbers without a pattern that would matter.
at::Tensor Wave(at::IntArrayRef shape, double phase) {
  const int64_t count = c10::multiply_integers(shape);
  return at::arange(count, at::kDouble).mul_(1.7).add_(phase).sin_().reshape(shape);
}

// Of the largest number of `b`.
double Apart(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b).abs().max() / b.abs().max()).item<double>();
}

// Few rows take one library, many the other; operands as the backward passes have them.
TEST(MultiplyTest, AgreesWithDoublesWhateverTheStrides) {
  for (const int64_t rows : {3, 257}) {
    const at::Tensor x = Wave({rows, 96}, 0), w = Wave({200, 96}, 1), bias = Wave({200}, 2);
    const at::Tensor product = x.matmul(w.t()), xs = x.to(at::kFloat), ws = w.to(at::kFloat);
    EXPECT_LE(Apart(Multiply(xs, ws), product), 2e-6);
    EXPECT_LE(Apart(Multiply(xs, ws, bias.to(at::kFloat)), product + bias), 2e-6);
    const at::Tensor x_columns = xs.t().contiguous().t(), w_columns = ws.t().contiguous().t();
    EXPECT_LE(Apart(Multiply(x_columns, w_columns), product), 2e-6);
    const at::Tensor padded = at::cat({xs, xs}, 1).narrow(1, 96, 96);
    EXPECT_LE(Apart(Multiply(padded, ws), product), 2e-6);
    EXPECT_LE(Apart(Multiply(x, w), product), 1e-13);
  }
}

TEST(MultiplyTest, AutogradGoesThroughIt) {
  const at::Tensor x = Wave({257, 96}, 0).to(at::kFloat).requires_grad_(true);
  const at::Tensor w = Wave({200, 96}, 1).to(at::kFloat);
  Multiply(x, w).sum().backward();
  const at::Tensor expected = w.to(at::kDouble).sum(0).expand({257, 96});
  EXPECT_LE(Apart(x.grad(), expected), 2e-6);
}

TEST(FusedLinearTest, GradientsOfManyRowsAgreeWithDoubles) {
  const at::Tensor x = Wave({257, 96}, 0), w = Wave({200, 96}, 1), pull = Wave({257, 200}, 3);
  const at::Tensor xs = x.to(at::kFloat).requires_grad_(true), ws = w.to(at::kFloat);
  const std::vector<at::Tensor> leaves = {ws.narrow(0, 0, 120).detach().requires_grad_(true),
                                          ws.narrow(0, 120, 80).detach().requires_grad_(true)};
  (FusedLinear(xs, ws, {}, leaves) * pull.to(at::kFloat)).sum().backward();
  EXPECT_LE(Apart(xs.grad(), pull.matmul(w)), 2e-6);
  const at::Tensor of_weight = at::cat({leaves[0].grad(), leaves[1].grad()});
  EXPECT_LE(Apart(of_weight, pull.t().matmul(x)), 2e-6);
  const c10::NoGradGuard no_grad;
  EXPECT_LE(Apart(FusedLinear(xs, ws, {}, leaves), x.matmul(w.t())), 2e-6);
}

}  // namespace
}  // namespace palimpsest::model
