#include "common/model/config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_format.h"
#include "common/base/regular_file.h"

namespace palimpsest::model {
namespace {

using nlohmann::json;

constexpr int kMaxLayers = 1024;
constexpr int kMaxHeads = 4096;
constexpr int kMaxHeadDim = 1024;
constexpr int kMaxWidth = 1 << 20;
constexpr int kMaxVocab = 1 << 24;
constexpr int kMaxDepth = 16;         // of nested JSON: printing and comparing recurse
constexpr int kMaxContext = 1 << 24;  // fp32 counts positions exactly up to here

absl::Status Refuse(std::string_view field, const json& value, std::string_view why) {
  std::string shown = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (shown.size() > 80) shown = shown.substr(0, 80) + "...";
  return absl::InvalidArgumentError(
      absl::StrFormat("config.json: %s=%s %s", std::string(field), shown, std::string(why)));
}

// The value of `key`; null when it is absent.
const json& Field(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

// `absent` stands for a missing or null value; 0: the field is required.
absl::StatusOr<int> Count(const json& object, const char* key, int max, int absent = 0) {
  const json& value = Field(object, key);
  if (value.is_null() && absent > 0) return absent;
  if (!value.is_number_integer()) return Refuse(key, value, "must be an integer");
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(max);
  if (too_big || value.get<int64_t>() < 1 || value.get<int64_t>() > max) {
    return Refuse(key, value, absl::StrFormat("is not in [1, %d]", max));
  }
  return value.get<int>();
}

absl::StatusOr<double> Positive(const json& object, const char* key,
                                std::optional<double> absent = std::nullopt) {
  const json& value = Field(object, key);
  if (value.is_null() && absent) return *absent;
  if (!value.is_number()) return Refuse(key, value, "must be a number");
  const double number = value.get<double>();
  if (!(number > 0) || !std::isfinite(number)) return Refuse(key, value, "must be positive");
  return number;
}

absl::StatusOr<bool> Flag(const json& object, const char* key) {
  const json& value = Field(object, key);
  if (value.is_null()) return false;
  if (!value.is_boolean()) return Refuse(key, value, "must be true or false");
  return value.get<bool>();
}

absl::StatusOr<Architecture> ReadArchitecture(const json& root) {
  static constexpr struct {
    std::string_view class_name, model_type;
    Architecture architecture;
  } kKnown[] = {{"Qwen3ForCausalLM", "qwen3", Architecture::kQwen3},
                {"Qwen2ForCausalLM", "qwen2", Architecture::kQwen2},
                {"LlamaForCausalLM", "llama", Architecture::kLlama}};
  const json& list = Field(root, "architectures");
  const json& type = Field(root, "model_type");
  for (const auto& known : kKnown) {
    if (list.is_null() ? type == json(known.model_type) : list == json::array({known.class_name})) {
      if (!type.is_null() && type != json(known.model_type)) {
        return Refuse("model_type", type, "does not belong to architectures");
      }
      return known.architecture;
    }
  }
  constexpr std::string_view kWhy =
      "is not one of Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM";
  return list.is_null() ? Refuse("model_type", type, kWhy) : Refuse("architectures", list, kWhy);
}

absl::StatusOr<Llama3Scaling> ReadLlama3(const json& rope) {
  Llama3Scaling scaling;
  ASSIGN_OR_RETURN(scaling.factor, Positive(rope, "factor"));
  ASSIGN_OR_RETURN(scaling.low_freq_factor, Positive(rope, "low_freq_factor"));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, Positive(rope, "high_freq_factor"));
  ASSIGN_OR_RETURN(scaling.original_max_position,
                   Count(rope, "original_max_position_embeddings", kMaxContext));
  if (scaling.factor < 1) return Refuse("factor", scaling.factor, "of llama3 scaling is below 1");
  if (scaling.low_freq_factor >= scaling.high_freq_factor) {
    return Refuse("low_freq_factor", scaling.low_freq_factor, "is not below high_freq_factor");
  }
  return scaling;
}

// transformers 4 writes rope_theta and rope_scaling {type | rope_type, ...}; transformers 5 writes
// rope_parameters {rope_type, rope_theta, ...}.
absl::Status ReadRope(const json& root, ModelConfig& config) {
  const bool v5 = !Field(root, "rope_parameters").is_null();
  const char* key = v5 ? "rope_parameters" : "rope_scaling";
  const json& rope = Field(root, key);
  ASSIGN_OR_RETURN(config.rope_theta, Positive(root, "rope_theta", 1e4));
  if (rope.is_null()) return absl::OkStatus();
  if (!rope.is_object()) return Refuse(key, rope, "must be an object");
  for (const json& part : rope) {
    if (part.is_object()) return Refuse(key, rope, "per kind of layer is not supported");
  }
  ASSIGN_OR_RETURN(config.rope_theta, Positive(rope, "rope_theta", config.rope_theta));
  ASSIGN_OR_RETURN(const double partial, Positive(rope, "partial_rotary_factor", 1.0));
  if (partial != 1.0) return Refuse("partial_rotary_factor", partial, "is not supported");
  json type = Field(rope, "rope_type");
  if (type.is_null()) type = Field(rope, "type");
  if (type == json("llama3")) {
    ASSIGN_OR_RETURN(config.rope_scaling, ReadLlama3(rope));
  } else if (!type.is_null() && type != json("default")) {
    return Refuse("rope_type", type, "is not one of default, llama3");
  }
  return absl::OkStatus();
}

// What the decoder cannot do, or would do otherwise than transformers.
absl::Status RefuseUnsupported(const json& root) {
  const json& act = Field(root, "hidden_act");
  if (!act.is_null() && act != json("silu")) return Refuse("hidden_act", act, "is not silu");
  ASSIGN_OR_RETURN(const bool sliding, Flag(root, "use_sliding_window"));
  if (sliding) return Refuse("use_sliding_window", true, "is not supported");
  const json& layer_types = Field(root, "layer_types");
  for (const json& type : layer_types.is_array() ? layer_types : json::array()) {
    if (type != json("full_attention")) {
      return Refuse("layer_types", type, "is not full_attention");
    }
  }
  const json& quantized = Field(root, "quantization_config");
  if (!quantized.is_null()) {
    return Refuse("quantization_config", quantized, "is not supported");
  }
  const json& dropout = Field(root, "attention_dropout");
  if (!dropout.is_null() && dropout != json(0.0)) {
    return Refuse("attention_dropout", dropout, "is not 0");
  }
  const json& partial = Field(root, "partial_rotary_factor");
  if (!partial.is_null() && partial != json(1.0)) {
    return Refuse("partial_rotary_factor", partial, "is not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const json& root, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.layers, Count(root, "num_hidden_layers", kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden, Count(root, "hidden_size", kMaxWidth));
  ASSIGN_OR_RETURN(config.intermediate, Count(root, "intermediate_size", kMaxWidth));
  ASSIGN_OR_RETURN(config.heads, Count(root, "num_attention_heads", kMaxHeads));
  ASSIGN_OR_RETURN(config.kv_heads, Count(root, "num_key_value_heads", kMaxHeads, config.heads));
  ASSIGN_OR_RETURN(config.vocab, Count(root, "vocab_size", kMaxVocab));
  ASSIGN_OR_RETURN(config.max_position, Count(root, "max_position_embeddings", kMaxContext));
  if (config.heads % config.kv_heads != 0) {
    return Refuse("num_key_value_heads", config.kv_heads,
                  absl::StrFormat("does not divide num_attention_heads=%d", config.heads));
  }
  int head_dim = config.hidden % config.heads == 0 ? config.hidden / config.heads : 0;
  // The class default of transformers; files of the family leave it out only there.
  if (config.architecture == Architecture::kQwen3 && !root.contains("head_dim")) head_dim = 128;
  ASSIGN_OR_RETURN(config.head_dim, Count(root, "head_dim", kMaxHeadDim, head_dim));
  if (config.head_dim % 2 != 0) {
    return Refuse("head_dim", config.head_dim, "is odd: rotary positions need pairs");
  }
  return absl::OkStatus();
}

absl::Status ReadBiases(const json& root, ModelConfig& config) {
  if (config.architecture == Architecture::kQwen2) {
    config.attention_bias = true;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(config.attention_bias, Flag(root, "attention_bias"));
  config.output_bias = config.attention_bias;
  if (config.architecture == Architecture::kLlama) {
    ASSIGN_OR_RETURN(config.mlp_bias, Flag(root, "mlp_bias"));
  }
  return absl::OkStatus();
}

constexpr int64_t kMostBytes = int64_t{16} << 20;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  return ReadRegularFile(path, kMostBytes);
}

absl::StatusOr<json> ParseObject(std::string_view name, const std::string& text) {
  bool too_deep = false;
  const auto watch_depth = [&](int depth, json::parse_event_t, json&) {
    too_deep |= depth > kMaxDepth;
    return !too_deep;
  };
  json root = json::parse(text, watch_depth, /*allow_exceptions=*/false);
  if (too_deep || !root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: is not a JSON object", std::string(name)));
  }
  return root;
}

// eos_token_id of one file: absent, a number or a list.
absl::StatusOr<std::optional<std::vector<int32_t>>> StopIdsOf(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  ASSIGN_OR_RETURN(const json root, ParseObject(path, text));
  const json& value = Field(root, "eos_token_id");
  if (value.is_null()) return std::nullopt;
  std::vector<int32_t> ids;
  for (const json& id : value.is_array() ? value : json::array({value})) {
    const bool fits = id.is_number_integer() && id >= json(0) && id < json(kMaxVocab);
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: eos_token_id=%s is not a token id", path,
                          id.dump(-1, ' ', true, json::error_handler_t::replace)));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text) {
  ASSIGN_OR_RETURN(const json root, ParseObject("config.json", json_text));
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(root));
  RETURN_IF_ERROR(RefuseUnsupported(root));
  RETURN_IF_ERROR(ReadSizes(root, config));
  RETURN_IF_ERROR(ReadRope(root, config));
  RETURN_IF_ERROR(ReadBiases(root, config));
  ASSIGN_OR_RETURN(config.rms_norm_eps, Positive(root, "rms_norm_eps", 1e-6));
  ASSIGN_OR_RETURN(config.tied_embeddings, Flag(root, "tie_word_embeddings"));
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(folder + "/config.json"));
  auto config = ParseModelConfig(text);
  if (config.ok()) return config;
  return absl::Status(config.status().code(),
                      absl::StrFormat("%s/%s", folder, std::string(config.status().message())));
}

absl::StatusOr<std::vector<int32_t>> ReadStopIds(const std::string& folder) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    auto ids = StopIdsOf(folder + "/" + name);
    if (absl::IsNotFound(ids.status())) continue;
    RETURN_IF_ERROR(ids.status());
    if (ids->has_value()) return **std::move(ids);
  }
  return std::vector<int32_t>{};
}

std::string ModelConfigJson(const ModelConfig& config) {
  static constexpr const char* kClass[] = {"Qwen3ForCausalLM", "Qwen2ForCausalLM",
                                           "LlamaForCausalLM"};
  static constexpr const char* kType[] = {"qwen3", "qwen2", "llama"};
  const int which = static_cast<int>(config.architecture);
  json rope = {{"rope_type", "default"}, {"rope_theta", config.rope_theta}};
  if (const auto& scaling = config.rope_scaling) {
    rope["rope_type"] = "llama3";
    rope["factor"] = scaling->factor;
    rope["low_freq_factor"] = scaling->low_freq_factor;
    rope["high_freq_factor"] = scaling->high_freq_factor;
    rope["original_max_position_embeddings"] = scaling->original_max_position;
  }
  json root = {{"architectures", json::array({kClass[which]})},
               {"model_type", kType[which]},
               {"num_hidden_layers", config.layers},
               {"hidden_size", config.hidden},
               {"intermediate_size", config.intermediate},
               {"num_attention_heads", config.heads},
               {"num_key_value_heads", config.kv_heads},
               {"head_dim", config.head_dim},
               {"vocab_size", config.vocab},
               {"max_position_embeddings", config.max_position},
               {"rms_norm_eps", config.rms_norm_eps},
               {"tie_word_embeddings", config.tied_embeddings},
               {"hidden_act", "silu"},
               {"rope_theta", config.rope_theta},
               {"rope_parameters", rope}};
  if (config.rope_scaling) root["rope_scaling"] = rope;  // for transformers 4
  if (config.architecture != Architecture::kQwen2) root["attention_bias"] = config.attention_bias;
  if (config.architecture == Architecture::kLlama) root["mlp_bias"] = config.mlp_bias;
  if (config.architecture != Architecture::kLlama) root["use_sliding_window"] = false;
  return root.dump(2) + "\n";
}

}  // namespace palimpsest::model
