#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/config.h"
#include "common/model/decoder.h"

namespace palimpsest::model {

// One tensor of a checkpoint of `config`, and how a fresh model fills it.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  double init_mean = 0;
  double init_std = 0;  // 0: the constant init_mean
};

// Every tensor that a checkpoint must have, and no other; in the order of the layers. Tensors that
// one matrix product reads (q, k, v; gate, up) stand next to each other.
std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config);

// Fills `tensor` from the stream (seed, spec.name), drawn in double and rounded once.
void FillRandom(const ParameterSpec& spec, uint64_t seed, at::Tensor& tensor);

}  // namespace palimpsest::model
