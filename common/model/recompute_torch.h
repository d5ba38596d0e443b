#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "common/model/layer_keeper.h"

namespace palimpsest::model {

// Rows [T, D] -> [T, D'].
using Block = std::function<at::Tensor(const at::Tensor&)>;

// block(x), for which autograd keeps x alone: its backward pass runs the block once more and hands
// the gradients to x and to `leaves`, the autograd leaves that the block reads. The same bits as
// with autograd through block(x), as long as the block gives the same bits when it runs again. What
// it refers to outlives the backward pass. With a keeper the leaves are those of `layer`, which is
// taken while the block runs, and their gradients go to the keeper instead.
at::Tensor Recomputed(Block block, const at::Tensor& x, const std::vector<at::Tensor>& leaves,
                      LayerKeeper* keeper = nullptr, int layer = 0);

}  // namespace palimpsest::model
