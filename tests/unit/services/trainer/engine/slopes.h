#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "services/trainer/engine/model_source.h"
#include "services/trainer/engine/replay_pass.h"
#include "tests/unit/services/trainer/engine/batches.h"

// Gradients of passes against slopes over the weights. Included by tests only, with torch.
namespace palimpsest::trainer {

inline constexpr attention::ReplayOptions kReplay = {.gradient = compaction::GradientMode::kFull,
                                                     .scale = 0.35355339059327373};  // 8^-1/2

// A model like the engine's, in fp64.
inline std::unique_ptr<model::Decoder> WideModel(const EngineOptions& options, uint64_t seed) {
  auto source = MakeModel(options.model, seed, model::DType::kFloat64);
  EXPECT_TRUE(source.ok()) << source.status();
  for (auto [name, tensor] : source->decoder->Parameters()) tensor.requires_grad_(true);
  return std::move(source->decoder);
}

inline std::vector<const LossSequence*> Pointers(const std::vector<LossSequence>& sequences) {
  std::vector<const LossSequence*> pointers;
  for (const LossSequence& sequence : sequences) pointers.push_back(&sequence);
  return pointers;
}

inline std::vector<at::Tensor> TakeGradients(const model::Decoder& decoder) {
  std::vector<at::Tensor> gradients;
  for (auto [name, tensor] : decoder.Parameters()) {
    gradients.push_back(tensor.grad().defined() ? tensor.grad().clone() : at::zeros_like(tensor));
    tensor.mutable_grad() = at::Tensor();
  }
  return gradients;
}

inline double Dot(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += (a[i].to(at::kDouble) * b[i].to(at::kDouble)).sum().item<double>();
  }
  return sum;
}

inline void Move(const model::Decoder& decoder, const std::vector<at::Tensor>& direction,
                 double by) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < direction.size(); ++i) {
    at::Tensor(decoder.Parameters()[i].second).add_(direction[i], by);
  }
}

// Gradient and random direction, both of length 1.
inline std::vector<at::Tensor> DirectionOf(const std::vector<at::Tensor>& gradient) {
  const double norm = std::sqrt(Dot(gradient, gradient));
  RandomStream random(8);
  std::vector<at::Tensor> direction;
  double squares = 0;
  for (const at::Tensor& g : gradient) {
    direction.push_back(at::empty_like(g));
    double* values = direction.back().mutable_data_ptr<double>();
    for (int64_t i = 0; i < g.numel(); ++i) squares += std::pow(values[i] = random.Normal(), 2);
  }
  for (size_t i = 0; i < gradient.size(); ++i) {
    direction[i].div_(std::sqrt(squares)).add_(gradient[i], 1 / norm);
  }
  return direction;
}

}  // namespace palimpsest::trainer
