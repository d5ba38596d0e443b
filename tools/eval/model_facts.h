#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace palimpsest::tools::eval {

// The model that answers, as its server tells it.
struct ModelFacts {
  std::string architecture;
  int32_t layers = 0, hidden = 0, kv_heads = 0, head_dim = 0;
  int32_t max_position = 0;            // positions are [0, max_position)
  std::vector<int32_t> stop_ids = {};  // its own
  std::string dtype;                   // of weights and cache: float32 or bfloat16
  int64_t policy_version = 0;          // of the live weights
  std::string run;                     // that the server belongs to
};

// Bytes of one slot in all layers and KV heads: key, value, and the bias of 4 bytes.
inline int64_t SlotBytes(const ModelFacts& model) {
  const int64_t element = model.dtype == "bfloat16" ? 2 : 4;
  return int64_t{model.layers} * model.kv_heads * (2 * model.head_dim * element + 4);
}

}  // namespace palimpsest::tools::eval
