#include "services/trainer/engine/adamw.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/weights/safetensors.h"

namespace palimpsest::trainer {
namespace {

absl::Status InUnit(const char* field, double value) {
  if (value >= 0 && value < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s=%g is not in [0, 1)", field, value));
}

weights::TensorView View(const at::Tensor& tensor) {
  return {.type = tensor.scalar_type() == at::kDouble ? weights::TensorType::kF64
                                                      : weights::TensorType::kF32,
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace

absl::Status Validate(const AdamOptions& o) {
  RETURN_IF_ERROR(InUnit("beta1", o.beta1));
  RETURN_IF_ERROR(InUnit("beta2", o.beta2));
  if (!(o.epsilon > 0)) {
    return absl::InvalidArgumentError(absl::StrFormat("epsilon=%g is not > 0", o.epsilon));
  }
  if (!(o.weight_decay >= 0 && std::isfinite(o.weight_decay))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("weight_decay=%g is not >= 0", o.weight_decay));
  }
  if (!(o.clip_norm > 0)) {
    return absl::InvalidArgumentError(absl::StrFormat("clip_norm=%g is not > 0", o.clip_norm));
  }
  return absl::OkStatus();
}

AdamW::AdamW(const model::NamedTensors& parameters, const AdamOptions& options)
    : options_(options), parameters_(parameters) {
  for (auto& [name, tensor] : parameters_) {
    tensor.requires_grad_(true);
    for (const char* moment : {"m.", "v."}) {
      moments_.emplace_back(moment + name, at::zeros(tensor.sizes(), tensor.options()));
    }
  }
}
AdamW::~AdamW() = default;

double AdamW::GradientNorm() const {
  double squares = 0;
  for (const auto& [name, tensor] : parameters_) {
    if (!tensor.grad().defined()) continue;
    const double norm = tensor.grad().norm().item<double>();
    squares += norm * norm;
  }
  return std::sqrt(squares);
}

void AdamW::Step(double learning_rate, double norm) {
  c10::NoGradGuard no_grad;
  ++updates_;
  const double scale = norm > options_.clip_norm ? options_.clip_norm / norm : 1;
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(updates_));
  const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(updates_));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto& [name, parameter] = parameters_[i];
    if (!parameter.grad().defined()) continue;
    const at::Tensor gradient = parameter.grad() * scale;
    at::Tensor &m = moments_[2 * i].second, &v = moments_[2 * i + 1].second;
    m.mul_(options_.beta1).add_(gradient, 1 - options_.beta1);
    v.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
    if (Decays(options_.decay, name, parameter.dim())) {
      parameter.mul_(1 - learning_rate * options_.weight_decay);
    }
    const at::Tensor spread = v.sqrt().div_(std::sqrt(correction2)).add_(options_.epsilon);
    parameter.addcdiv_(m, spread, -learning_rate / correction1);
  }
}

void AdamW::ClearGradients() {
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = at::Tensor();
}

absl::Status AdamW::Save(const std::string& path) const {
  std::vector<weights::NamedTensor> tensors;
  for (const auto& [name, tensor] : moments_) tensors.push_back({name, View(tensor)});
  return weights::WriteSafetensors(path, tensors, {});
}

absl::Status AdamW::Load(const std::string& path, int64_t updates) {
  ASSIGN_OR_RETURN(const auto file, weights::SafetensorsFile::Open(path));
  for (const auto& [name, tensor] : moments_) {
    const auto found = file->tensors().find(name);
    const weights::TensorView wanted = View(tensor);
    if (found == file->tensors().end() || found->second.type != wanted.type ||
        found->second.shape != wanted.shape) {
      return absl::DataLossError(absl::StrFormat("%s: no tensor %s of our shape", path, name));
    }
  }
  for (auto& [name, tensor] : moments_) {
    const auto& bytes = file->tensors().at(name).bytes;
    std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  }
  updates_ = updates;
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
