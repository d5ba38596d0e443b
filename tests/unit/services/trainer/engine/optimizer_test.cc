#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "services/trainer/engine/adamw.h"

namespace palimpsest::trainer {
namespace {

// Numbers without a pattern that would matter.
at::Tensor Wave(at::IntArrayRef shape, double phase) {
  const int64_t count = c10::multiply_integers(shape);
  return at::arange(count, at::kFloat).mul_(1.7).add_(phase).sin_().reshape(shape);
}

// Two updates of whole tensors by the equations of Loshchilov and Hutter, tensor by tensor and in
// the order of operations that runs of one rank have always had: they stay the same bit for bit.
TEST(AdamWTest, OnOneRankAnUpdateIsTheEquationsOnWholeTensorsBitForBit) {
  const model::NamedTensors parameters = {{"model.layers.0.a", Wave({7, 33}, 0)},
                                          {"model.norm", Wave({33}, 1)}};
  std::vector<at::Tensor> expected, m, v;
  for (const auto& [name, tensor] : parameters) {
    expected.push_back(tensor.clone());
    m.push_back(at::zeros_like(tensor));
    v.push_back(at::zeros_like(tensor));
  }
  const AdamOptions options;
  ParameterShards shards(parameters, Alone());
  AdamW optimizer(shards, options);
  for (int update = 1; update <= 2; ++update) {
    double squares = 0;
    std::vector<at::Tensor> gradients;
    for (const auto& [name, tensor] : parameters) {
      gradients.push_back(Wave(tensor.sizes(), 5 * update));
      at::Tensor(tensor).mutable_grad() = gradients.back().clone();
      const double norm = gradients.back().norm().item<double>();
      squares += norm * norm;
    }
    const double norm = std::sqrt(squares), scale = options.clip_norm / norm;  // it clips
    ASSERT_GT(norm, options.clip_norm);
    c10::NoGradGuard no_grad;
    const double c1 = 1 - std::pow(options.beta1, update), c2 = 1 - std::pow(options.beta2, update);
    for (size_t i = 0; i < expected.size(); ++i) {
      const at::Tensor g = gradients[i] * scale;
      m[i].mul_(options.beta1).add_(g, 1 - options.beta1);
      v[i].mul_(options.beta2).addcmul_(g, g, 1 - options.beta2);
      if (expected[i].dim() >= 2) expected[i].mul_(1 - 1e-2 * options.weight_decay);
      expected[i].addcdiv_(m[i], v[i].sqrt() / std::sqrt(c2) + options.epsilon, -1e-2 / c1);
    }
    const auto taken = shards.TakeGradients();
    ASSERT_TRUE(taken.ok());
    EXPECT_EQ(std::sqrt(SquaredNorm(*taken)), norm);
    optimizer.Step(1e-2, norm, *taken);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(at::equal(parameters[i].second.detach(), expected[i])) << update << " " << i;
      EXPECT_FALSE(parameters[i].second.grad().defined());
    }
  }
}

}  // namespace
}  // namespace palimpsest::trainer
