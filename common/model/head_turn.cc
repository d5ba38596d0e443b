#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "common/model/head_turn_torch.h"

namespace palimpsest::model {

HeadTurn::HeadTurn(const Decoder& decoder) : decoder_(decoder) {
  hold_.emplace(decoder.layer_keeper(), kHead);
}

at::Tensor HeadTurn::Enter(const at::Tensor& hidden) {
  if (decoder_.layer_keeper() == nullptr) return hidden;
  rows_.push_back(hidden);
  entered_.push_back(hidden.detach().requires_grad_(true));
  return entered_.back();
}

void HeadTurn::Backward(const std::vector<at::Tensor>& values,
                        const std::vector<at::Tensor>& gradients) {
  LayerKeeper* const keeper = decoder_.layer_keeper();
  if (keeper == nullptr) {
    torch::autograd::backward(values, gradients);
    return;
  }
  const at::Tensor& head = decoder_.HeadWeight();
  std::vector<at::Tensor> wanted = entered_;
  wanted.push_back(head);
  std::vector<at::Tensor> found = torch::autograd::grad(values, wanted, gradients);
  keeper->Found(kHead, {head}, {found.back()});
  found.pop_back();
  hold_.reset();
  torch::autograd::backward(rows_, found);
}

}  // namespace palimpsest::model
