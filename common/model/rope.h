#pragma once

#include <utility>

#include "common/model/config.h"

namespace at {
class Tensor;
}

namespace palimpsest::model {

// Radians per position of each pair of channels, [d/2]: fp32, or fp64 when `precise`; every step
// rounded as transformers rounds it, llama3 scaling included.
at::Tensor RopeFrequencies(const ModelConfig& config, bool precise);

// Cosine and signed sine, both [T, 1, d] of the kind `like` has, of int64 positions [T]. Angles are
// formed in the precision of `frequencies`.
std::pair<at::Tensor, at::Tensor> RopeTables(const at::Tensor& positions,
                                             const at::Tensor& frequencies, const at::Tensor& like);

// Half-split rotation of x [T, heads, d]: x cos + swap_halves(x) signed_sin.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& signed_sin);

}  // namespace palimpsest::model
