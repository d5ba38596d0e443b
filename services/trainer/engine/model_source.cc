#include "services/trainer/engine/model_source.h"

#include <nlohmann/json.hpp>
#include <tuple>

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

model::ModelConfig ConfigOf(const InitModel& init) {
  return {.architecture = model::Architecture::kQwen3,
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
}

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
  ASSIGN_OR_RETURN(source.companions["tokenizer.json"], ByteTokenizerJson(init.special_tokens));
  source.companions["generation_config.json"] =
      nlohmann::json{{"eos_token_id", kBytes}}.dump(2) + "\n";
  source.companions["tokenizer_config.json"] =
      nlohmann::json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"eos_token", init.special_tokens.front()}}
          .dump(2) +
      "\n";
  source.decoder =
      model::Decoder::Random(ConfigOf(init), MixSeed({seed, Meaning("model.init")}), dtype);
  return source;
}

absl::Status CheckGoesOn(const ModelSection& section, const model::ModelConfig& found) {
  if (!section.folder.empty()) return absl::OkStatus();
  const model::ModelConfig asked = ConfigOf(section.init);
  const std::tuple<const char*, double, double> fields[] = {
      {"layers", asked.layers, found.layers},
      {"hidden", asked.hidden, found.hidden},
      {"intermediate", asked.intermediate, found.intermediate},
      {"heads", asked.heads, found.heads},
      {"kv_heads", asked.kv_heads, found.kv_heads},
      {"head_dim", asked.head_dim, found.head_dim},
      {"special_tokens", asked.vocab - kBytes, found.vocab - kBytes},
      {"max_position", asked.max_position, found.max_position},
      {"rope_theta", asked.rope_theta, found.rope_theta},
      {"tied", asked.tied_embeddings, found.tied_embeddings}};
  for (const auto& [name, wanted, has] : fields) {
    if (wanted == has) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "model.init.%s: %g is asked for and the run's checkpoint has %g; a run keeps its model: "
        "give the old value, or another run.folder",
        name, wanted, has));
  }
  return absl::OkStatus();
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
