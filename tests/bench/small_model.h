#pragma once

#include "common/model/config.h"

namespace palimpsest::bench {

// The size of the quickstart's model.
constexpr model::ModelConfig SmallModel(int layers = 4, int vocab = 257) {
  return {.architecture = model::Architecture::kQwen3,
          .layers = layers,
          .hidden = 128,
          .intermediate = 384,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 32,
          .vocab = vocab,
          .max_position = 4096};
}

}  // namespace palimpsest::bench
