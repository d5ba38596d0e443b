#include "common/model/checkpoint.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/weights/checkpoint_reader.h"
#include "common/weights/safetensors.h"

namespace palimpsest::model {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

using ByName = std::map<std::string, at::Tensor>;

std::string ShapeText(const at::Tensor& tensor) {
  return "[" + absl::StrJoin(tensor.sizes().begin(), tensor.sizes().end(), ", ") + "]";
}

absl::Status CheckTensor(const std::string& name, const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) {
    return absl::InvalidArgumentError(absl::StrFormat("tensor %s has shape %s, the model's is %s",
                                                      name, ShapeText(from), ShapeText(to)));
  }
  if (!from.is_floating_point()) {
    return absl::InvalidArgumentError(absl::StrFormat("tensor %s has dtype %s, not a floating one",
                                                      name, at::toString(from.scalar_type())));
  }
  return absl::OkStatus();
}

// Frequencies that old versions of transformers stored; we form our own.
bool IsBuffer(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

bool MayBeLeftOut(const std::string& name, const at::Tensor& tensor, bool tied,
                  const ByName& wanted) {
  return IsBuffer(name) ||
         (tied && name == kHead && tensor.sizes() == wanted.at(kEmbedding).sizes());
}

// The two numberings of the same types.
constexpr std::pair<weights::TensorType, at::ScalarType> kTypes[] = {
    {weights::TensorType::kF32, at::kFloat},
    {weights::TensorType::kBF16, at::kBFloat16},
    {weights::TensorType::kF16, at::kHalf},
    {weights::TensorType::kF64, at::kDouble},
};

// Views `view` without copying, unless its elements are not aligned; the caller keeps the bytes
// alive and does not write.
absl::StatusOr<at::Tensor> Wrap(const std::string& name, const weights::TensorView& view) {
  for (const auto& [type, scalar_type] : kTypes) {
    if (type != view.type) continue;
    if (reinterpret_cast<uintptr_t>(view.bytes.data()) % weights::SizeOf(type) != 0) {
      at::Tensor copy = at::empty(view.shape, scalar_type);
      std::memcpy(copy.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
      return copy;
    }
    void* data = const_cast<std::byte*>(view.bytes.data());
    return at::from_blob(data, view.shape, scalar_type);
  }
  return absl::InvalidArgumentError(absl::StrFormat("tensor %s has dtype %s, not a floating one",
                                                    name, std::string(Name(view.type))));
}

absl::Status Under(const std::string& folder, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrFormat("%s: %s", folder, std::string(status.message())));
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("%s: cannot be written", path));
}

}  // namespace

absl::Status CopyNamed(const NamedTensors& source, bool tied, const NamedTensors& target) {
  const ByName wanted(target.begin(), target.end());
  ByName found;
  for (const auto& [name, tensor] : source) {
    const auto slot = wanted.find(name);
    if (slot == wanted.end()) {
      if (MayBeLeftOut(name, tensor, tied, wanted)) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("tensor %s is not a part of the model", name));
    }
    RETURN_IF_ERROR(CheckTensor(name, tensor, slot->second));
    if (!found.emplace(name, tensor).second) {
      return absl::InvalidArgumentError(absl::StrFormat("tensor %s is given twice", name));
    }
  }
  for (const auto& [name, to] : wanted) {
    if (!found.contains(name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tensor %s %s is missing", name, ShapeText(to)));
    }
  }
  c10::NoGradGuard no_grad;
  for (const auto& [name, from] : found) wanted.at(name).copy_(from);
  return absl::OkStatus();
}

absl::Status Decoder::CopyWeights(const NamedTensors& tensors) {
  return CopyNamed(tensors, config().tied_embeddings, Parameters());
}

absl::Status Decoder::LoadWeights(const std::string& folder) {
  ASSIGN_OR_RETURN(const ModelConfig theirs, ReadModelConfig(folder));
  if (theirs != config()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s/config.json: describes another model:\n%s, ours is\n%s", folder,
                        ModelConfigJson(theirs), ModelConfigJson(config())));
  }
  ASSIGN_OR_RETURN(const auto reader, weights::CheckpointReader::Open(folder));
  NamedTensors tensors;
  for (const std::string& name : reader->names()) {
    ASSIGN_OR_RETURN(const weights::TensorView view, reader->Find(name));
    if (IsBuffer(name)) continue;
    auto tensor = Wrap(name, view);
    RETURN_IF_ERROR(Under(folder, tensor.status()));
    tensors.emplace_back(name, *std::move(tensor));
  }
  return Under(folder, CopyWeights(tensors));
}

absl::Status Decoder::Save(const std::string& folder) const {
  return SaveNamed(config(), Parameters(), folder);
}

absl::Status SaveNamed(const ModelConfig& config, const NamedTensors& parameters,
                       const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrFormat("%s: cannot be made: %s", folder, error.message()));
  }
  std::vector<at::Tensor> alive;
  std::vector<weights::NamedTensor> out;
  for (const auto& [name, tensor] : parameters) {
    const at::Tensor& host = alive.emplace_back(tensor.detach().cpu().contiguous());
    weights::TensorView view;
    for (const auto& [type, scalar_type] : kTypes) {
      if (scalar_type == host.scalar_type()) view.type = type;
    }
    view.shape = host.sizes().vec();
    view.bytes = {static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()};
    out.push_back({name, std::move(view)});
  }
  RETURN_IF_ERROR(
      weights::WriteSafetensors(folder + "/model.safetensors", out, {{"format", "pt"}}));
  return WriteText(folder + "/config.json", ModelConfigJson(config));
}

}  // namespace palimpsest::model
