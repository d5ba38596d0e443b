#include "services/trainer/engine/parameter_shards.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <span>

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

}  // namespace

FlatRange OwnedRange(int64_t count, int rank, int size) {
  const int64_t width = Width(count, size);
  return {std::min(count, rank * width), std::min(count, (rank + 1) * width)};
}

ParameterShards::ParameterShards(const model::NamedTensors& parameters, Collective& ranks)
    : ranks_(ranks), parameters_(parameters) {
  std::string last;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto& [name, tensor] = parameters_[i];
    const FlatRange range = OwnedRange(tensor.numel(), ranks.rank(), ranks.size());
    owned_.emplace_back(name, tensor.detach().view(-1).narrow(0, range.begin, range.count()));
    tensor.requires_grad_(true);
    if (tensor.scalar_type() == at::kBFloat16) tensor.set_grad_dtype(at::kFloat);
    if (const std::string block = BlockOf(name); blocks_.empty() || block != last) {
      blocks_.push_back({.first = i});
      last = block;
    }
    blocks_.back().last = i + 1;
    blocks_.back().width += Width(tensor.numel(), ranks.size());
  }
}
ParameterShards::~ParameterShards() = default;

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
    at::Tensor all = at::zeros({ranks_.size(), block.width}, at::kFloat);
    at::Tensor mine = at::empty({block.width}, at::kFloat);
    ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
      const at::Tensor& gradient = parameters_[i].second.grad();
      if (!gradient.defined()) return;
      all[rank]
          .narrow(0, offset, range.count())
          .copy_(gradient.reshape(-1).narrow(0, range.begin, range.count()));
    });
    for (size_t i = block.first; i < block.last; ++i) {
      parameters_[i].second.mutable_grad() = at::Tensor();
    }
    RETURN_IF_ERROR(ranks_.ReduceScatter(Values(all), Values(mine)));
    ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
      if (rank == ranks_.rank()) gradients[i] = mine.narrow(0, offset, range.count());
    });
  }
  return gradients;
}

absl::Status ParameterShards::Gather() {
  if (ranks_.size() == 1) return absl::OkStatus();
  c10::NoGradGuard no_grad;
  for (const Block& block : blocks_) {
    at::Tensor all = at::empty({ranks_.size(), block.width}, at::kFloat);
    at::Tensor mine = at::zeros({block.width}, at::kFloat);
    ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
      if (rank == ranks_.rank()) mine.narrow(0, offset, range.count()).copy_(owned_[i].second);
    });
    RETURN_IF_ERROR(ranks_.AllGather(Values(mine), Values(all)));
    ForEachSlice(block, [&](size_t i, int rank, FlatRange range, int64_t offset) {
      if (rank == ranks_.rank()) return;
      parameters_[i]
          .second.view(-1)
          .narrow(0, range.begin, range.count())
          .copy_(all[rank].narrow(0, offset, range.count()));
    });
  }
  return absl::OkStatus();
}

void ParameterShards::DropGradients() {
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = at::Tensor();
}

}  // namespace palimpsest::trainer
