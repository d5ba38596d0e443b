#include "services/trainer/engine/model_source.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "common/weights/durable_file.h"

namespace palimpsest::trainer {
namespace {

constexpr int kBytes = 256;  // ids of a byte-level tokenizer before its special tokens
constexpr int64_t kMaxCompanion = 256 << 20;  // bytes
constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "generation_config.json",
                                       "chat_template.jinja",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt"};

}  // namespace

absl::StatusOr<SourceModel> LoadModel(const std::string& folder, model::DType dtype) {
  SourceModel source;
  ASSIGN_OR_RETURN(source.decoder, model::Decoder::Load(folder, dtype));
  for (const char* name : kCompanions) {
    auto text = weights::ReadSmallFile(folder + "/" + name, kMaxCompanion);
    if (text.ok()) {
      source.companions[name] = *std::move(text);
    } else if (!absl::IsNotFound(text.status())) {
      return text.status();
    }
  }
  if (!source.companions.contains("tokenizer.json")) {
    return absl::NotFoundError(absl::StrFormat("%s has no tokenizer.json", folder));
  }
  return source;
}

absl::StatusOr<SourceModel> MakeModel(const ModelSection& section, uint64_t seed,
                                      model::DType dtype) {
  if (!section.folder.empty()) return LoadModel(section.folder, dtype);
  const InitModel& init = section.init;
  SourceModel source;
  const model::ModelConfig config = {.architecture = model::Architecture::kQwen3,
                                     .layers = init.layers,
                                     .hidden = init.hidden,
                                     .intermediate = init.intermediate,
                                     .heads = init.heads,
                                     .kv_heads = init.kv_heads,
                                     .head_dim = init.head_dim,
                                     .vocab = kBytes + static_cast<int>(init.special_tokens.size()),
                                     .max_position = init.max_position,
                                     .rope_theta = init.rope_theta,
                                     .tied_embeddings = init.tied};
  ASSIGN_OR_RETURN(source.companions["tokenizer.json"], ByteTokenizerJson(init.special_tokens));
  source.companions["generation_config.json"] =
      nlohmann::json{{"eos_token_id", kBytes}}.dump(2) + "\n";
  source.companions["tokenizer_config.json"] =
      nlohmann::json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"eos_token", init.special_tokens.front()}}
          .dump(2) +
      "\n";
  source.decoder = model::Decoder::Random(config, MixSeed({seed, Meaning("model.init")}), dtype);
  return source;
}

absl::Status SaveModel(const SourceModel& model, const std::string& folder) {
  RETURN_IF_ERROR(model.decoder->Save(folder));
  return SaveCompanions(model.companions, folder);
}

absl::Status SaveCompanions(const std::map<std::string, std::string>& companions,
                            const std::string& folder) {
  for (const auto& [name, text] : companions) {
    RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/" + name, text));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
