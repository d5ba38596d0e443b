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

// One update of every parameter, with gradients given in their order.
void Update(ParameterShards& shards, AdamW& optimizer, double rate,
            const std::vector<at::Tensor>& gradients) {
  for (size_t i = 0; i < gradients.size(); ++i) {
    at::Tensor(shards.parameters()[i].second).mutable_grad() = gradients[i].clone();
  }
  const auto taken = shards.TakeGradients();
  ASSERT_TRUE(taken.ok());
  optimizer.Step(rate, std::sqrt(SquaredNorm(*taken)), *taken);
}

TEST(AdamWTest, Bf16WeightsAreTheFp32OnesOfTheSameGradientsRounded) {
  const at::Tensor matrix = Wave({7, 33}, 0).to(at::kBFloat16),
                   norm = Wave({33}, 1).to(at::kBFloat16);
  const model::NamedTensors narrow = {{"model.layers.0.a", matrix}, {"model.norm", norm}};
  const model::NamedTensors wide = {{"model.layers.0.a", matrix.to(at::kFloat)},
                                    {"model.norm", norm.to(at::kFloat)}};
  ParameterShards narrow_shards(narrow, Alone()), wide_shards(wide, Alone());
  AdamW narrow_adam(narrow_shards, {}), wide_adam(wide_shards, {});
  for (int update = 1; update <= 40; ++update) {
    const std::vector<at::Tensor> gradients = {Wave({7, 33}, 5 * update), Wave({33}, 3 * update)};
    Update(narrow_shards, narrow_adam, 1e-3, gradients);
    Update(wide_shards, wide_adam, 1e-3, gradients);
    for (size_t i = 0; i < wide.size(); ++i) {
      const at::Tensor exact = wide[i].second.detach();
      EXPECT_TRUE(at::equal(narrow[i].second.detach(), exact.to(at::kBFloat16)))
          << update << " " << i;
      EXPECT_FALSE(at::equal(exact, exact.to(at::kBFloat16).to(at::kFloat)));
    }
  }
}

// At 1 the next bf16 number is 1/256 below; an update is 1e-6.
TEST(AdamWTest, UpdatesTooSmallForBf16AddUpInTheMaster) {
  const at::Tensor weight = at::ones({8}, at::kBFloat16), bare = at::ones({8}, at::kFloat);
  ParameterShards shards({{"model.norm", weight}}, Alone()),
      control({{"model.norm", bare}}, Alone());
  AdamW optimizer(shards, {}), without(control, {});
  for (int update = 0; update < 3000; ++update) {
    Update(shards, optimizer, 1e-6, {at::ones({8})});
    Update(control, without, 1e-6, {at::ones({8})});
    const c10::NoGradGuard no_grad;
    bare.copy_(bare.to(at::kBFloat16));  // no master: what a step leaves is rounded
  }
  EXPECT_TRUE(at::equal(weight.detach(), at::full({8}, 1 - 1.0 / 256, at::kBFloat16)));
  EXPECT_TRUE(at::equal(bare.detach(), at::ones({8}))) << "the control stands still";
}

TEST(ParameterShardsTest, GradientsOfBf16ParametersAddUpInFp32) {
  const at::Tensor weight = at::ones({4}, at::kBFloat16);
  const at::Tensor plain = at::ones({4}, at::kBFloat16).requires_grad_(true);
  ParameterShards shards({{"model.norm", weight}}, Alone());
  for (const double pull : {1.0, 1.0 / 512}) {
    (weight * pull).sum().backward();
    (plain * pull).sum().backward();
  }
  const auto taken = shards.TakeGradients();
  ASSERT_TRUE(taken.ok());
  EXPECT_TRUE(at::equal(taken->at(0), at::full({4}, 1 + 1.0 / 512, at::kFloat)));
  EXPECT_TRUE(at::equal(plain.grad(), at::ones({4}, at::kBFloat16))) << "the control";
}

}  // namespace
}  // namespace palimpsest::trainer
