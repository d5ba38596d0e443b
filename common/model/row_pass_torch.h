#pragma once

#include "common/model/decoder.h"
#include "common/model/layer_torch.h"

namespace palimpsest::model {

// A decoder's weights on the CPU, fp32 or bf16.
struct RowModel {
  const ModelConfig& config;
  const at::Tensor& embedding;    // [V, D]
  const at::Tensor& final_norm;   // [D]
  const at::Tensor& frequencies;  // [d/2] fp32, radians per position
  const std::vector<Layer>& layers;
};

// Decoder::Hidden and Decoder::Logits on the kernels of row_kernels.h: the same numbers up to the
// order of sums. No autograd.
at::Tensor HiddenByRows(const RowModel& model, const at::Tensor& ids, const at::Tensor& positions,
                        AttentionContext& attention);
at::Tensor LogitsByRows(const at::Tensor& hidden, const at::Tensor& head);

}  // namespace palimpsest::model
