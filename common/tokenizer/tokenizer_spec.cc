#include "common/tokenizer/tokenizer_spec.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

constexpr int kMaxNesting = 8;  // Sequences in Sequences

absl::Status Bad(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: %s %s", where, what));
}

// The value as text for a message, short whatever it is.
std::string Shown(const Json& value) {
  if (value.is_object() || value.is_array()) return value.type_name();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

// nullptr: the key is absent or null.
const Json* Find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<bool> Bool(const Json& object, const std::string& where, const char* key,
                          std::optional<bool> absent) {
  const Json* value = Find(object, key);
  if (value == nullptr && absent) return *absent;
  if (value == nullptr) return Bad(where + "." + key, "is missing");
  if (!value->is_boolean()) return Bad(where + "." + key, "must be a bool, not " + Shown(*value));
  return value->get<bool>();
}

absl::StatusOr<std::string> String(const Json& object, const std::string& where, const char* key,
                                   std::optional<std::string> absent) {
  const Json* value = Find(object, key);
  if (value == nullptr && absent) return *absent;
  if (value == nullptr) return Bad(where + "." + key, "is missing");
  if (!value->is_string()) return Bad(where + "." + key, "must be a string, not " + Shown(*value));
  return value->get<std::string>();
}

absl::StatusOr<int32_t> Id(const Json& value, const std::string& where) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - 1;
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= kMost;
  if (!fits)
    return Bad(where, absl::StrFormat("must be an id in [0, %d], not %s", kMost, Shown(value)));
  return value.get<int32_t>();
}

// Calls visit(component, its path, its type) for the components of `root`, Sequences unfolded.
template <class Visit>
absl::Status ForEach(const Json& root, const std::string& where, const char* list, Visit& visit,
                     int depth = 0) {
  if (!root.is_object()) return Bad(where, "must be an object, not " + Shown(root));
  if (depth > kMaxNesting) return Bad(where, "is nested too deeply");
  ASSIGN_OR_RETURN(const std::string type, String(root, where, "type", std::nullopt));
  if (type != "Sequence") return visit(root, where, type);
  const Json* items = Find(root, list);
  if (items == nullptr || !items->is_array()) return Bad(where + "." + list, "must be an array");
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string item = absl::StrFormat("%s.%s[%d]", where, list, i);
    RETURN_IF_ERROR(ForEach((*items)[i], item, list, visit, depth + 1));
  }
  return absl::OkStatus();
}

absl::Status Unsupported(const std::string& where, const std::string& type) {
  return Bad(where + ".type", "\"" + type + "\" is not supported");
}

absl::Status ReadNormalizer(const Json& root, TokenizerSpec& spec) {
  const Json* normalizer = Find(root, "normalizer");
  if (normalizer == nullptr) return absl::OkStatus();
  auto visit = [&](const Json&, const std::string& where, const std::string& type) {
    if (type != "NFC") return Unsupported(where, type);
    spec.nfc = true;
    return absl::OkStatus();
  };
  return ForEach(*normalizer, "normalizer", "normalizers", visit);
}

absl::Status ReadSplit(const Json& item, const std::string& where, TokenizerSpec& spec) {
  const Json* pattern = Find(item, "pattern");
  if (pattern == nullptr || !pattern->is_object()) {
    return Bad(where + ".pattern", "must be {\"Regex\": ..} or {\"String\": ..}");
  }
  TokenizerSpec::Split split;
  split.literal = Find(*pattern, "Regex") == nullptr;
  ASSIGN_OR_RETURN(split.pattern, String(*pattern, where + ".pattern",
                                         split.literal ? "String" : "Regex", std::nullopt));
  ASSIGN_OR_RETURN(split.invert, Bool(item, where, "invert", std::nullopt));
  ASSIGN_OR_RETURN(const std::string behavior, String(item, where, "behavior", std::nullopt));
  if (behavior != "Isolated" && behavior != "Removed") {
    return Bad(where + ".behavior", "\"" + behavior + "\" is not supported (Isolated, Removed)");
  }
  split.remove_delimiter = behavior == "Removed";
  spec.splits.push_back(std::move(split));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const Json& root, TokenizerSpec& spec) {
  const Json* pre_tokenizer = Find(root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) return Bad("pre_tokenizer", "must end in ByteLevel, it is null");
  bool byte_level = false;
  auto visit = [&](const Json& item, const std::string& where, const std::string& type) {
    if (type != "Split" && type != "ByteLevel") return Unsupported(where, type);
    if (byte_level) return Bad(where, "stands after ByteLevel, which must be last");
    if (type == "Split") return ReadSplit(item, where, spec);
    byte_level = true;
    ASSIGN_OR_RETURN(spec.add_prefix_space, Bool(item, where, "add_prefix_space", std::nullopt));
    ASSIGN_OR_RETURN(spec.gpt2_split, Bool(item, where, "use_regex", true));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEach(*pre_tokenizer, "pre_tokenizer", "pretokenizers", visit));
  return byte_level ? absl::OkStatus() : Bad("pre_tokenizer", "must end in ByteLevel");
}

absl::Status ReadDecoder(const Json& root) {
  const Json* decoder = Find(root, "decoder");
  if (decoder == nullptr) return Bad("decoder", "must be ByteLevel, it is null");
  int count = 0;
  auto visit = [&](const Json&, const std::string& where, const std::string& type) {
    if (type != "ByteLevel") return Unsupported(where, type);
    ++count;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEach(*decoder, "decoder", "decoders", visit));
  return count == 1 ? absl::OkStatus() : Bad("decoder", "must hold ByteLevel once");
}

// The ids of one {"SpecialToken": {"id": name}} of a template.
absl::StatusOr<std::vector<int32_t>> TemplateIds(const Json& item, const std::string& where,
                                                 const Json& piece) {
  ASSIGN_OR_RETURN(const std::string name, String(piece, where, "id", std::nullopt));
  const Json* tokens = Find(item, "special_tokens");
  const Json* token = tokens && tokens->is_object() ? Find(*tokens, name.c_str()) : nullptr;
  const Json* ids = token && token->is_object() ? Find(*token, "ids") : nullptr;
  if (ids == nullptr || !ids->is_array()) {
    return Bad(where, "names \"" + name + "\", which special_tokens gives no ids for");
  }
  std::vector<int32_t> out;
  for (const Json& id : *ids) {
    ASSIGN_OR_RETURN(const int32_t value, Id(id, where));
    out.push_back(value);
  }
  return out;
}

absl::Status ReadTemplate(const Json& item, const std::string& where, TokenizerSpec& spec) {
  const Json* single = Find(item, "single");
  if (single == nullptr || !single->is_array()) return Bad(where + ".single", "must be an array");
  std::vector<int32_t> before, after;
  int sequences = 0;
  for (size_t i = 0; i < single->size(); ++i) {
    const std::string at = absl::StrFormat("%s.single[%d]", where, i);
    const Json& piece = (*single)[i];
    if (!piece.is_object()) return Bad(at, "must be an object, not " + Shown(piece));
    const Json* special = Find(piece, "SpecialToken");
    if (special == nullptr) {
      if (Find(piece, "Sequence") == nullptr)
        return Bad(at, "is neither Sequence nor SpecialToken");
      ++sequences;
      continue;
    }
    if (!special->is_object()) return Bad(at, "must hold an object, not " + Shown(*special));
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TemplateIds(item, at, *special));
    std::vector<int32_t>& side = sequences == 0 ? before : after;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (sequences != 1) return Bad(where + ".single", "must hold the text once");
  spec.prefix_ids.insert(spec.prefix_ids.begin(), before.begin(), before.end());
  spec.suffix_ids.insert(spec.suffix_ids.end(), after.begin(), after.end());
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const Json& root, TokenizerSpec& spec) {
  const Json* post_processor = Find(root, "post_processor");
  if (post_processor == nullptr) return absl::OkStatus();
  auto visit = [&](const Json& item, const std::string& where, const std::string& type) {
    if (type == "ByteLevel") return absl::OkStatus();  // moves offsets, which nobody asks for here
    if (type == "TemplateProcessing") return ReadTemplate(item, where, spec);
    return Unsupported(where, type);
  };
  return ForEach(*post_processor, "post_processor", "processors", visit);
}

absl::Status ReadMerges(const Json& model, BpeSpec& spec) {
  const Json* merges = Find(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Bad("model.merges", "must be an array");
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    const std::string where = absl::StrFormat("model.merges[%d]", i);
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return Bad(where, "must be two tokens with one space between, not " + Shown(merge));
      }
      spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      spec.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      return Bad(where, "must be \"a b\" or [\"a\", \"b\"]");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadVocab(const Json& model, BpeSpec& spec) {
  const Json* vocab = Find(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Bad("model.vocab", "must be an object");
  absl::flat_hash_map<int32_t, std::string> owner;
  for (const auto& [token, value] : vocab->items()) {
    ASSIGN_OR_RETURN(const int32_t id, Id(value, "model.vocab[\"" + token + "\"]"));
    const auto [it, fresh] = owner.emplace(id, token);
    if (!fresh) {
      return Bad("model.vocab",
                 absl::StrFormat("gives id %d to \"%s\" and to \"%s\"", id, it->second, token));
    }
    spec.vocab.emplace(token, id);
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& root, BpeSpec& spec) {
  const Json* model = Find(root, "model");
  if (model == nullptr || !model->is_object()) return Bad("model", "must be an object");
  ASSIGN_OR_RETURN(const std::string type, String(*model, "model", "type", std::nullopt));
  if (type != "BPE") return Unsupported("model", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string value, String(*model, "model", key, ""));
    if (!value.empty()) return Bad(std::string("model.") + key, "must be empty, not " + value);
  }
  const Json* dropout = Find(*model, "dropout");
  if (dropout != nullptr && *dropout != 0.0) {
    return Bad("model.dropout", "must be null or 0, not " + Shown(*dropout));
  }
  ASSIGN_OR_RETURN(const bool byte_fallback, Bool(*model, "model", "byte_fallback", false));
  if (byte_fallback) return Bad("model.byte_fallback", "true is not supported");
  ASSIGN_OR_RETURN(spec.ignore_merges, Bool(*model, "model", "ignore_merges", false));
  ASSIGN_OR_RETURN(spec.fuse_unk, Bool(*model, "model", "fuse_unk", false));
  ASSIGN_OR_RETURN(spec.unk_token, String(*model, "model", "unk_token", ""));
  RETURN_IF_ERROR(ReadVocab(*model, spec));
  return ReadMerges(*model, spec);
}

absl::StatusOr<AddedToken> ReadAddedToken(const Json& item, const std::string& where) {
  if (!item.is_object()) return Bad(where, "must be an object, not " + Shown(item));
  AddedToken token;
  const Json* id = Find(item, "id");
  if (id == nullptr) return Bad(where + ".id", "is missing");
  ASSIGN_OR_RETURN(token.id, Id(*id, where + ".id"));
  ASSIGN_OR_RETURN(token.content, String(item, where, "content", std::nullopt));
  for (const auto& [key, field] : {std::pair{"single_word", &token.single_word},
                                   {"lstrip", &token.lstrip},
                                   {"rstrip", &token.rstrip},
                                   {"normalized", &token.normalized},
                                   {"special", &token.special}}) {
    ASSIGN_OR_RETURN(*field, Bool(item, where, key, std::nullopt));
  }
  return token;
}

absl::Status ReadAddedTokens(const Json& root, TokenizerSpec& spec) {
  const Json* tokens = Find(root, "added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array()) return Bad("added_tokens", "must be an array, not " + Shown(*tokens));
  for (size_t i = 0; i < tokens->size(); ++i) {
    ASSIGN_OR_RETURN(AddedToken token,
                     ReadAddedToken((*tokens)[i], absl::StrFormat("added_tokens[%d]", i)));
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerSpec(std::string_view json_text) {
  const Json root = Json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return Bad("file", "is not valid JSON");
  if (!root.is_object()) return Bad("file", "must hold an object, not " + Shown(root));
  TokenizerSpec spec;
  RETURN_IF_ERROR(ReadModel(root, spec.model));
  RETURN_IF_ERROR(ReadNormalizer(root, spec));
  RETURN_IF_ERROR(ReadPreTokenizer(root, spec));
  RETURN_IF_ERROR(ReadDecoder(root));
  RETURN_IF_ERROR(ReadPostProcessor(root, spec));
  RETURN_IF_ERROR(ReadAddedTokens(root, spec));
  return spec;
}

}  // namespace palimpsest
