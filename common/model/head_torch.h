#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace palimpsest::model {

// The derivative [n, V] by the raw logits of wide rows [n, D], which stand from `row` on.
using LogitGradient = std::function<at::Tensor(int64_t row, const at::Tensor& rows)>;

struct HeadGradients {
  at::Tensor hidden;  // [N, D]
  at::Tensor weight;  // [V, D]; each undefined where it is not wanted
};

// Takes a loss back through the head, `chunk_rows` rows at a time and the last ones first, so that
// no more logits live.
HeadGradients PullThroughHead(const at::Tensor& hidden, const at::Tensor& weight,
                              int64_t chunk_rows, bool want_hidden, bool want_weight,
                              const LogitGradient& gradient_of);

// Calls `work` with the rows of `numbers` [N, V], some at a time: so few that what is done to them
// finds them in the cache. On all threads; without autograd.
void ForEachRowBlock(const at::Tensor& numbers,
                     const std::function<void(int64_t row, const at::Tensor& block)>& work);

}  // namespace palimpsest::model
