#include "services/trainer/engine/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "common/weights/durable_file.h"
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

constexpr int64_t kBlock = 32768;  // numbers that are stepped at once

constexpr char kWhole[] = "optimizer.safetensors";

std::string FileOf(int rank, int size) {
  if (size == 1) return kWhole;
  return absl::StrFormat("optimizer-%05d-of-%05d.safetensors", rank, size);
}

// What steps are taken on.
at::Tensor ValueOf(const at::Tensor& slice) {
  return slice.scalar_type() == at::kBFloat16 ? slice.to(at::kFloat) : slice;
}

// How many ranks saved the moments that stand in `folder`.
absl::StatusOr<int> SavedSize(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, weights::ListFolder(folder));
  for (const std::string& name : names) {
    int rank = 0, size = 0;
    if (name == kWhole) return 1;
    const bool part = std::sscanf(name.c_str(), "optimizer-%d-of-%d.", &rank, &size) == 2;
    if (part && size > 1 && name == FileOf(rank, size)) return size;
  }
  return absl::DataLossError(absl::StrFormat("%s holds no moments of the optimiser", folder));
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

AdamW::AdamW(const ParameterShards& shards, const AdamOptions& options)
    : options_(options), shards_(shards) {
  for (const auto& [name, slice] : shards_.owned()) {
    const at::Tensor value = ValueOf(slice);
    state_.emplace_back("m." + name, at::zeros_like(value));
    state_.emplace_back("v." + name, at::zeros_like(value));
    state_.emplace_back("w." + name, value);
  }
}
AdamW::~AdamW() = default;

at::Tensor& AdamW::Of(size_t parameter, Part part) {
  return state_[kParts * parameter + part].second;
}

bool AdamW::HasMaster(size_t parameter) const {
  return shards_.owned()[parameter].second.scalar_type() == at::kBFloat16;
}

double SquaredNorm(std::span<const at::Tensor> gradients) {
  double squares = 0;
  for (const at::Tensor& gradient : gradients) {
    if (!gradient.defined()) continue;
    const double norm = gradient.norm().item<double>();
    squares += norm * norm;
  }
  return squares;
}

void AdamW::Step(double learning_rate, double norm, std::span<const at::Tensor> gradients) {
  ++updates_;
  const double scale = norm > options_.clip_norm ? options_.clip_norm / norm : 1;
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(updates_));
  const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(updates_));
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const auto& [name, whole] = shards_.parameters()[i];
    const double decay =
        Decays(options_.decay, name, whole.dim()) ? learning_rate * options_.weight_decay : 0;
    // Block by block, so that all of these operations find its numbers in the cache; the same
    // blocks whatever the number of threads.
    const int64_t count = gradients[i].numel();
    at::parallel_for(0, (count + kBlock - 1) / kBlock, 1, [&](int64_t first, int64_t last) {
      const c10::NoGradGuard no_grad;
      for (int64_t begin = first * kBlock; begin < std::min(count, last * kBlock);
           begin += kBlock) {
        const auto part = [&](const at::Tensor& all) {
          return all.narrow(0, begin, std::min(kBlock, count - begin));
        };
        const at::Tensor gradient = part(gradients[i]) * scale;
        const at::Tensor m = part(Of(i, kMean)), v = part(Of(i, kSquare)), w = part(Of(i, kValue));
        m.mul_(options_.beta1).add_(gradient, 1 - options_.beta1);
        v.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
        if (decay != 0) w.mul_(1 - decay);
        const at::Tensor spread = v.sqrt().div_(std::sqrt(correction2)).add_(options_.epsilon);
        w.addcdiv_(m, spread, -learning_rate / correction1);
        if (HasMaster(i)) part(shards_.owned()[i].second).copy_(w);
      }
    });
  }
}

model::NamedTensors AdamW::ToSave(int size) const {
  model::NamedTensors tensors;
  for (size_t i = 0; i < state_.size(); ++i) {
    const auto& [name, tensor] = state_[i];
    if (i % kParts == kValue && !HasMaster(i / kParts)) continue;
    const at::Tensor& parameter = shards_.parameters()[i / kParts].second;
    tensors.emplace_back(name, size == 1 ? tensor.view(parameter.sizes()) : tensor);
  }
  return tensors;
}

absl::Status SaveMoments(const model::NamedTensors& tensors, const std::string& folder, int rank,
                         int size) {
  std::vector<weights::NamedTensor> views;
  for (const auto& [name, tensor] : tensors) views.push_back({name, View(tensor)});
  return weights::WriteSafetensors(folder + "/" + FileOf(rank, size), views, {});
}

absl::Status AdamW::Load(const std::string& folder, int rank, int size, int64_t updates) {
  ASSIGN_OR_RETURN(const int saved_size, SavedSize(folder));
  for (int saved = 0; saved < saved_size; ++saved) {
    const std::string path = folder + "/" + FileOf(saved, saved_size);
    ASSIGN_OR_RETURN(const auto file, weights::SafetensorsFile::Open(path));
    const bool masters = file->tensors().contains(state_[kValue].first);
    if (saved == 0 && masters != HasMaster(0)) {
      Log(Severity::kWarning,
          masters ? "bfloat16 weights go on in float32, as their masters"
                  : "float32 weights go on in bfloat16, rounded; masters begin with them",
          {{"checkpoint", folder}});
    }
    for (size_t i = 0; i < state_.size(); ++i) {
      if (i % kParts == kValue && !masters) continue;
      auto& [name, tensor] = state_[i];
      const int64_t count = shards_.parameters()[i / kParts].second.numel();
      const FlatRange theirs = OwnedRange(count, saved, saved_size);
      const FlatRange ours = OwnedRange(count, rank, size);
      const auto found = file->tensors().find(name);
      const int64_t width = tensor.element_size();
      if (found == file->tensors().end() || found->second.type != View(tensor).type ||
          static_cast<int64_t>(found->second.bytes.size()) != theirs.count() * width) {
        return absl::DataLossError(absl::StrFormat("%s: no tensor %s of our shape", path, name));
      }
      const int64_t begin = std::max(theirs.begin, ours.begin);
      const int64_t end = std::min(theirs.end, ours.end);
      if (begin >= end) continue;
      auto* to = static_cast<std::byte*>(tensor.mutable_data_ptr()) + (begin - ours.begin) * width;
      const std::byte* from = found->second.bytes.data() + (begin - theirs.begin) * width;
      std::memcpy(to, from, static_cast<size_t>((end - begin) * width));
    }
  }
  updates_ = updates;
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
