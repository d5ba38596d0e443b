#include "services/trainer/engine/parameter_shards.h"

#include <ATen/ATen.h>
#include <ATen/native/Resize.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/trainer/engine/slice_exchange_torch.h"

namespace palimpsest::trainer {
namespace {

constexpr std::string_view kLayers = "model.layers.";

// "model.layers.3." of a parameter of that layer; else the parameter itself.
std::string PartOf(const std::string& name) {
  if (!name.starts_with(kLayers)) return name;
  return name.substr(0, name.find('.', kLayers.size()) + 1);
}

// Where each block of parameters begins, and the end.
std::vector<size_t> Bounds(const model::NamedTensors& parameters) {
  std::vector<size_t> bounds = {0};
  for (size_t i = 1; i < parameters.size(); ++i) {
    if (PartOf(parameters[i].first) != PartOf(parameters[i - 1].first)) bounds.push_back(i);
  }
  bounds.push_back(parameters.size());
  return bounds;
}

void Throw(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

}  // namespace

ParameterShards::ParameterShards(const model::NamedTensors& parameters, Collective& ranks,
                                 WeightsHeld held)
    : ranks_(ranks),
      sharded_(held == WeightsHeld::kSharded && ranks.size() > 1),
      parameters_(parameters),
      sums_(parameters.size()) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto& [name, tensor] = parameters_[i];
    const FlatRange range = OwnedRange(tensor.numel(), ranks.rank(), ranks.size());
    owned_.emplace_back(name, tensor.detach().view(-1).narrow(0, range.begin, range.count()));
    tensor.requires_grad_(true);
    if (tensor.scalar_type() == at::kBFloat16) tensor.set_grad_dtype(at::kFloat);
    at_[tensor.unsafeGetTensorImpl()] = i;
  }
  const std::vector<size_t> bounds = Bounds(parameters_);
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    std::vector<int64_t> counts;
    for (size_t i = bounds[b]; i < bounds[b + 1]; ++i) {
      counts.push_back(parameters_[i].second.numel());
    }
    const bool comes_and_goes = Place(parameters_[bounds[b]].first, b);
    blocks_.push_back({.first = bounds[b],
                       .last = bounds[b + 1],
                       .layout = SliceLayout(counts, ranks.size()),
                       .sharded = sharded_ && comes_and_goes});
    if (blocks_.back().sharded) Part(blocks_.back());
  }
}
ParameterShards::~ParameterShards() = default;

// What passes take of block `b`, which begins with parameter `name`; false: nothing.
bool ParameterShards::Place(const std::string& name, size_t b) {
  if (name == "model.embed_tokens.weight") {
    embedding_ = head_ = b;
  } else if (name == "lm_head.weight") {
    head_ = b;
  } else if (name.starts_with(kLayers)) {
    layers_.push_back(b);
  } else {
    return false;
  }
  return true;
}

size_t ParameterShards::BlockOf(int layer) const {
  if (layer == model::kEmbedding) return embedding_;
  return layer == model::kHead ? head_ : layers_[static_cast<size_t>(layer)];
}

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

std::unique_ptr<SlicesToAll> ParameterShards::Gathering(const Block& block) const {
  std::vector<at::Tensor> mine;
  for (size_t i = block.first; i < block.last; ++i) mine.push_back(owned_[i].second);
  return std::make_unique<SlicesToAll>(block.layout, ranks_, mine);
}

// The parameters of a block get the values that their owners have.
absl::Status ParameterShards::Fill(Block& block, std::unique_ptr<SlicesToAll> arriving) {
  RETURN_IF_ERROR(arriving->Wait());
  for (size_t i = 0; i < block.storages.size(); ++i) {
    at::native::resize_bytes_cpu(block.storages[i].storage().unsafeGetStorageImpl(),
                                 block.bytes[i]);
  }
  std::vector<at::Tensor> tensors;
  for (size_t i = block.first; i < block.last; ++i) tensors.push_back(parameters_[i].second);
  arriving->Fill(tensors);
  return absl::OkStatus();
}

// The gradients that were on their way have come.
absl::Status ParameterShards::Settle() {
  if (leaving_ == nullptr) return absl::OkStatus();
  const std::unique_ptr<GradientsToOwners> leaving = std::move(leaving_);
  ASSIGN_OR_RETURN(const std::vector<at::Tensor> mine, leaving->Wait());
  const c10::NoGradGuard no_grad;
  const size_t first = blocks_[leaving_from_].first;
  for (size_t i = 0; i < mine.size(); ++i) {
    at::Tensor& sum = sums_[first + i];
    sum = sum.defined() ? sum.add_(mine[i]) : mine[i].clone();
  }
  return absl::OkStatus();
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
  RETURN_IF_ERROR(Settle());
  for (const Block& block : blocks_) {
    if (block.sharded) {
      for (size_t i = block.first; i < block.last; ++i) {
        gradients[i] = sums_[i].defined() ? std::move(sums_[i])
                                          : at::zeros({owned_[i].second.numel()}, at::kFloat);
      }
      continue;
    }
    std::vector<at::Tensor> found;
    for (size_t i = block.first; i < block.last; ++i) {
      found.push_back(std::exchange(parameters_[i].second.mutable_grad(), at::Tensor()));
    }
    GradientsToOwners leaving(block.layout, ranks_, found);
    found.clear();
    ASSIGN_OR_RETURN(const std::vector<at::Tensor> mine, leaving.Wait());
    std::ranges::copy(mine, gradients.begin() + static_cast<std::ptrdiff_t>(block.first));
  }
  return gradients;
}

absl::Status ParameterShards::Gather() {
  if (ranks_.size() == 1) return absl::OkStatus();
  for (Block& block : blocks_) {
    if (!block.sharded) RETURN_IF_ERROR(Fill(block, Gathering(block)));
  }
  return absl::OkStatus();
}

void ParameterShards::DropGradients() {
  leaving_.reset();
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = at::Tensor();
  for (at::Tensor& sum : sums_) sum = at::Tensor();
}

void ParameterShards::Begin(bool backward) {
  to_take_.clear();
  if (!sharded_ || whole_) return;
  to_take_ = {embedding_};
  to_take_.insert(to_take_.end(), layers_.begin(), layers_.end());
  if (!backward) return;
  to_take_.push_back(head_);
  to_take_.insert(to_take_.end(), layers_.rbegin(), layers_.rend());
}

// The next block begins to come when this one is there and the last one has been freed.
void ParameterShards::Take(int layer) {
  Block& block = blocks_[BlockOf(layer)];
  if (block.taken++ > 0 || !block.sharded) return;
  if (to_take_.empty() || to_take_.front() != BlockOf(layer)) {
    throw std::logic_error(absl::StrFormat("layer %d is not what the pass takes next", layer));
  }
  to_take_.pop_front();
  Throw(Fill(block, arriving_ ? std::move(arriving_) : Gathering(block)));
  if (!to_take_.empty()) arriving_ = Gathering(blocks_[to_take_.front()]);
}

void ParameterShards::Leave(int layer) { Release(blocks_[BlockOf(layer)]); }

void ParameterShards::Release(Block& block) {
  if (--block.taken == 0 && block.sharded) Free(block);
}

void ParameterShards::Found(int layer, const std::vector<at::Tensor>& leaves,
                            const std::vector<at::Tensor>& gradients) {
  Throw(Settle());
  const Block& block = blocks_[BlockOf(layer)];
  std::vector<at::Tensor> found(block.last - block.first);
  for (size_t i = 0; i < leaves.size(); ++i) {
    found[at_.at(leaves[i].unsafeGetTensorImpl()) - block.first] = gradients[i];
  }
  leaving_from_ = BlockOf(layer);
  leaving_ = std::make_unique<GradientsToOwners>(block.layout, ranks_, found);
}

void ParameterShards::PassOfNothing(bool backward) {
  const auto layers = static_cast<int>(layers_.size());
  Begin(backward);
  for (int layer = model::kEmbedding; layer < layers; ++layer) {
    const model::LayerHold hold(this, layer);
  }
  if (!backward) return;
  const auto back = [this](int layer) {
    const model::LayerHold hold(this, layer);
    Found(layer, {}, {});
  };
  back(model::kHead);
  for (int layer = layers - 1; layer >= 0; --layer) back(layer);
  Found(model::kEmbedding, {}, {});
}

absl::Status ParameterShards::WhileWhole(const std::function<absl::Status()>& work) {
  if (!sharded_) return work();
  whole_ = true;
  for (Block& block : blocks_) {
    if (!block.sharded) continue;
    ++block.taken;
    RETURN_IF_ERROR(Fill(block, Gathering(block)));
  }
  const absl::Status status = work();
  for (Block& block : blocks_) {
    if (block.sharded) Release(block);
  }
  whole_ = false;
  return status;
}

}  // namespace palimpsest::trainer
