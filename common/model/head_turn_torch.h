#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "common/model/decoder.h"
#include "common/model/layer_keeper.h"

namespace palimpsest::model {

// The head's turn in a pass with autograd: taken from the decoder's keeper until its backward pass
// is over, before that of the layers. Without a keeper it does nothing but call autograd.
class HeadTurn {
 public:
  explicit HeadTurn(const Decoder& decoder);  // which outlives it

  // Hidden rows [N, D] of the pass as the head is to see them.
  at::Tensor Enter(const at::Tensor& hidden);
  // The backward pass of values that the head made of rows that have entered, and the end of its
  // turn. Once.
  void Backward(const std::vector<at::Tensor>& values, const std::vector<at::Tensor>& gradients);

 private:
  const Decoder& decoder_;
  std::optional<LayerHold> hold_;
  std::vector<at::Tensor> rows_, entered_;  // with a keeper autograd ends at the latter
};

}  // namespace palimpsest::model
