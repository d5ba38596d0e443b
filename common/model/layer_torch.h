#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace palimpsest::model {

// x weight' + bias; the bias may be undefined.
struct Affine {
  at::Tensor weight, bias;
};

// Linear maps of one input, kept as one matrix; see FusedLinear.
struct Projection {
  at::Tensor weight, bias;
  std::vector<at::Tensor> leaves;
};

struct Layer {
  at::Tensor input_norm, mlp_norm;
  at::Tensor q_norm, k_norm;  // undefined but for Qwen3
  Projection qkv, gate_up;
  Affine output, down;
};

}  // namespace palimpsest::model
