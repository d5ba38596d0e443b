#pragma once

#include "common/model/config.h"

namespace palimpsest::model {

// Three layers, grouped heads, every size different: a mixed-up dimension cannot hide.
inline ModelConfig SmallConfig(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.layers = 3;
  config.hidden = 24;
  config.intermediate = 40;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.vocab = 61;
  config.max_position = 4096;
  config.attention_bias = architecture != Architecture::kQwen3;
  config.output_bias = config.mlp_bias = architecture == Architecture::kLlama;
  return config;
}

}  // namespace palimpsest::model
