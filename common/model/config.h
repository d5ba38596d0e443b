#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::model {

enum class Architecture { kQwen3, kQwen2, kLlama };

// `llama3` RoPE scaling (Llama 3.1): low frequencies are stretched by `factor`, smoothly between
// the two bounds.
struct Llama3Scaling {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int original_max_position = 8192;
  bool operator==(const Llama3Scaling&) const = default;
};

// config.json as a value.
struct ModelConfig {
  Architecture architecture = Architecture::kQwen3;
  int layers = 0;
  int hidden = 0;        // D
  int intermediate = 0;  // MLP width
  int heads = 0;         // H
  int kv_heads = 0;      // Hk, divides H
  int head_dim = 0;      // d, even
  int vocab = 0;         // V
  int max_position = 0;
  double rope_theta = 1e4;
  std::optional<Llama3Scaling> rope_scaling;
  double rms_norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool attention_bias = false;  // q, k, v (Qwen2 always; Llama and Qwen3 when config says so)
  bool output_bias = false;     // o_proj (attention_bias of Llama and Qwen3 covers it)
  bool mlp_bias = false;
  bool operator==(const ModelConfig&) const = default;
};

// Reads <folder>/config.json as transformers 4 and 5 write it. What the decoder cannot do (another
// architecture, sliding window in use, another RoPE kind) is refused with the field's name and
// value.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder);
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text);
// The JSON that transformers reads back to the same model.
std::string ModelConfigJson(const ModelConfig& config);

// eos_token_id of generation_config.json, else of config.json; empty when neither names one.
absl::StatusOr<std::vector<int32_t>> ReadStopIds(const std::string& folder);

}  // namespace palimpsest::model
