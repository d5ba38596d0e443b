#include "services/trainer/engine/parameter_shards.h"

#include <ATen/ATen.h>
#include <ATen/native/Resize.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <span>
#include <stdexcept>

namespace palimpsest::trainer {
namespace {

// "model.layers.3." of a parameter of that layer, else "".
std::string BlockOf(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return "";
  return name.substr(0, name.find('.', kLayers.size()) + 1);
}

int64_t Width(int64_t count, int size) { return (count + size - 1) / size; }

std::span<float> Values(at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

void Throw(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

}  // namespace

FlatRange OwnedRange(int64_t count, int rank, int size) {
  const int64_t width = Width(count, size);
  return {std::min(count, rank * width), std::min(count, (rank + 1) * width)};
}

ParameterShards::ParameterShards(const model::NamedTensors& parameters, Collective& ranks,
                                 WeightsHeld held)
    : ranks_(ranks),
      sharded_(held == WeightsHeld::kSharded && ranks.size() > 1),
      parameters_(parameters),
      sums_(parameters.size()) {
  std::string last;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto& [name, tensor] = parameters_[i];
    const FlatRange range = OwnedRange(tensor.numel(), ranks.rank(), ranks.size());
    owned_.emplace_back(name, tensor.detach().view(-1).narrow(0, range.begin, range.count()));
    tensor.requires_grad_(true);
    if (tensor.scalar_type() == at::kBFloat16) tensor.set_grad_dtype(at::kFloat);
    const std::string block = BlockOf(name);
    if (blocks_.empty() || block != last) {
      blocks_.push_back({.first = i, .sharded = sharded_ && !block.empty()});
      if (!block.empty()) layers_.push_back(blocks_.size() - 1);
      last = block;
    }
    blocks_.back().last = i + 1;
    blocks_.back().width += Width(tensor.numel(), ranks.size());
    at_[tensor.unsafeGetTensorImpl()] = i;
  }
  for (Block& block : blocks_) {
    if (block.sharded) Part(block);
  }
}
ParameterShards::~ParameterShards() = default;

// Keeps what is owned for itself and lets the rest go.
void ParameterShards::Part(Block& block) {
  for (size_t i = block.first; i < block.last; ++i) {
    const at::Tensor& tensor = parameters_[i].second;
    owned_[i].second = owned_[i].second.clone();
    const auto same = [&](const at::Tensor& other) { return other.is_alias_of(tensor); };
    if (std::any_of(block.storages.begin(), block.storages.end(), same)) continue;
    block.storages.push_back(tensor);
    block.bytes.push_back(tensor.storage().nbytes());
  }
  Free(block);
}

void ParameterShards::Free(Block& block) {
  for (const at::Tensor& tensor : block.storages) {
    at::native::resize_bytes_cpu(tensor.storage().unsafeGetStorageImpl(), 0);
  }
}

absl::Status ParameterShards::Fill(Block& block) {
  for (size_t i = 0; i < block.storages.size(); ++i) {
    at::native::resize_bytes_cpu(block.storages[i].storage().unsafeGetStorageImpl(),
                                 block.bytes[i]);
  }
  return Exchange(block);
}

template <class Each>
void ParameterShards::ForEachSlice(const Block& block, const Each& each) const {
  int64_t offset = 0;
  for (size_t i = block.first; i < block.last; ++i) {
    const int64_t count = parameters_[i].second.numel();
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      each(i, rank, OwnedRange(count, rank, ranks_.size()), offset);
    }
    offset += Width(count, ranks_.size());
  }
}

// [width]: this rank's part of the sum over ranks.
absl::StatusOr<at::Tensor> ParameterShards::Reduce(
    const Block& block, const std::function<at::Tensor(size_t)>& gradient) {
  c10::NoGradGuard no_grad;
  at::Tensor all = at::zeros({ranks_.size(), block.width}, at::kFloat);
  at::Tensor mine = at::empty({block.width}, at::kFloat);
  ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
    const at::Tensor part = gradient(i);
    if (!part.defined()) return;
    all[rank]
        .narrow(0, offset, range.count())
        .copy_(part.reshape(-1).narrow(0, range.begin, range.count()));
  });
  RETURN_IF_ERROR(ranks_.ReduceScatter(Values(all), Values(mine)));
  return mine;
}

absl::StatusOr<std::vector<at::Tensor>> ParameterShards::TakeGradients() {
  std::vector<at::Tensor> gradients(parameters_.size());
  if (ranks_.size() == 1) {
    for (size_t i = 0; i < gradients.size(); ++i) {
      const at::Tensor& gradient = parameters_[i].second.grad();
      if (gradient.defined()) gradients[i] = gradient.reshape(-1);
    }
    DropGradients();
    return gradients;
  }
  for (const Block& block : blocks_) {
    if (block.sharded) {
      for (size_t i = block.first; i < block.last; ++i) {
        gradients[i] = sums_[i].defined() ? std::move(sums_[i])
                                          : at::zeros({owned_[i].second.numel()}, at::kFloat);
      }
      continue;
    }
    ASSIGN_OR_RETURN(const at::Tensor mine,
                     Reduce(block, [&](size_t i) { return parameters_[i].second.grad(); }));
    for (size_t i = block.first; i < block.last; ++i) {
      parameters_[i].second.mutable_grad() = at::Tensor();
    }
    ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
      if (rank == ranks_.rank()) gradients[i] = mine.narrow(0, offset, range.count());
    });
  }
  return gradients;
}

// The parameters get the values that their owners have.
absl::Status ParameterShards::Exchange(const Block& block) {
  c10::NoGradGuard no_grad;
  at::Tensor all = at::empty({ranks_.size(), block.width}, at::kFloat);
  at::Tensor mine = at::zeros({block.width}, at::kFloat);
  ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
    if (rank == ranks_.rank()) mine.narrow(0, offset, range.count()).copy_(owned_[i].second);
  });
  RETURN_IF_ERROR(ranks_.AllGather(Values(mine), Values(all)));
  ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
    if (rank == ranks_.rank() && !block.sharded) return;
    parameters_[i]
        .second.view(-1)
        .narrow(0, range.begin, range.count())
        .copy_(all[rank].narrow(0, offset, range.count()));
  });
  return absl::OkStatus();
}

absl::Status ParameterShards::Gather() {
  if (ranks_.size() == 1) return absl::OkStatus();
  for (const Block& block : blocks_) {
    if (!block.sharded) RETURN_IF_ERROR(Exchange(block));
  }
  return absl::OkStatus();
}

void ParameterShards::DropGradients() {
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = at::Tensor();
  for (at::Tensor& sum : sums_) sum = at::Tensor();
}

void ParameterShards::Take(int layer) {
  Block& block = blocks_[layers_[static_cast<size_t>(layer)]];
  if (block.taken++ == 0 && block.sharded) Throw(Fill(block));
}

void ParameterShards::Leave(int layer) {
  Block& block = blocks_[layers_[static_cast<size_t>(layer)]];
  if (--block.taken == 0 && block.sharded) Free(block);
}

void ParameterShards::Found(int layer, const std::vector<at::Tensor>& leaves,
                            const std::vector<at::Tensor>& gradients) {
  const Block& block = blocks_[layers_[static_cast<size_t>(layer)]];
  std::map<size_t, at::Tensor> found;
  for (size_t i = 0; i < leaves.size(); ++i) {
    found[at_.at(leaves[i].unsafeGetTensorImpl())] = gradients[i];
  }
  const absl::StatusOr<at::Tensor> mine = Reduce(block, [&](size_t i) { return found[i]; });
  Throw(mine.status());
  c10::NoGradGuard no_grad;
  ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
    if (rank != ranks_.rank()) return;
    const at::Tensor part = mine->narrow(0, offset, range.count());
    sums_[i] = sums_[i].defined() ? sums_[i].add_(part) : part.clone();
  });
}

void ParameterShards::PassOfNothing(bool backward) {
  const auto layers = static_cast<int>(layers_.size());
  for (int layer = 0; layer < layers; ++layer) {
    const model::LayerHold hold(this, layer);
  }
  for (int layer = layers - 1; backward && layer >= 0; --layer) {
    const model::LayerHold hold(this, layer);
    Found(layer, {}, {});
  }
}

absl::Status ParameterShards::WhileWhole(const std::function<absl::Status()>& work) {
  if (!sharded_) return work();
  for (const size_t layer : layers_) {
    ++blocks_[layer].taken;
    RETURN_IF_ERROR(Fill(blocks_[layer]));
  }
  const absl::Status status = work();
  for (size_t layer = 0; layer < layers_.size(); ++layer) Leave(static_cast<int>(layer));
  return status;
}

}  // namespace palimpsest::trainer
