#include "services/trainer/engine/checkpoint_copy.h"

#include <ATen/ATen.h>

#include <memory>
#include <utility>

#include "common/model/checkpoint.h"

namespace palimpsest::trainer {
namespace {

model::NamedTensors Copy(const model::NamedTensors& tensors) {
  model::NamedTensors copy;
  for (const auto& [name, tensor] : tensors) copy.emplace_back(name, tensor.detach().clone());
  return copy;
}

struct Copied {
  model::ModelConfig config;
  model::NamedTensors weights;  // of rank 0
  std::map<std::string, std::string> companions;
  model::NamedTensors moments;
};

}  // namespace

CheckpointPart CopyToSave(const SourceModel& model, const AdamW& optimizer, int rank, int size) {
  const auto copied = std::make_shared<Copied>();
  if (rank == 0) {
    copied->config = model.decoder->config();
    copied->weights = Copy(model.decoder->Parameters());
    copied->companions = model.companions;
  }
  copied->moments = Copy(optimizer.ToSave(size));
  return [copied, rank, size](const std::string& folder) -> absl::Status {
    if (rank == 0) {
      RETURN_IF_ERROR(model::SaveNamed(copied->config, copied->weights, folder));
      RETURN_IF_ERROR(SaveCompanions(copied->companions, folder));
    }
    return SaveMoments(copied->moments, folder, rank, size);
  };
}

}  // namespace palimpsest::trainer
