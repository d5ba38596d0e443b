#include "tools/event_json.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest::tools {
namespace {

using nlohmann::json;

absl::Status Refused(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, what));
}

// The value for a message: short whatever it is, and without descending into it.
std::string Shown(const json& value) {
  return value.is_structured() ? value.type_name() : value.dump().substr(0, 80);
}

// A refusal of the context room, told with its place.
template <class T>
absl::StatusOr<T> At(const std::string& path, absl::StatusOr<T> result) {
  if (result.ok()) return result;
  return Refused(path, std::string(result.status().message()));
}

// A JSON object whose keys are taken one by one; what is left over is refused.
class ObjectReader {
 public:
  static absl::StatusOr<ObjectReader> Open(const json& value, const std::string& path) {
    if (!value.is_object()) return Refused(path, "is not an object");
    return ObjectReader(value, path);
  }
  absl::StatusOr<const json*> Take(const std::string& key) {
    const json* const value = TakeIfThere(key);
    if (value == nullptr) return Refused(path_, absl::StrFormat("has no \"%s\"", key));
    return value;
  }
  const json* TakeIfThere(const std::string& key) {
    taken_.push_back(key);
    const auto found = value_->find(key);
    return found == value_->end() ? nullptr : &*found;
  }
  absl::Status NothingElse() const {
    for (const auto& [key, unused] : value_->items()) {
      if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) {
        return Refused(path_, absl::StrFormat("\"%s\" is unknown", key));
      }
    }
    return absl::OkStatus();
  }

 private:
  ObjectReader(const json& value, std::string path) : value_(&value), path_(std::move(path)) {}
  const json* value_;
  std::string path_;
  std::vector<std::string> taken_;
};

// A number without fraction or sign, up to 2^64 - 1.
bool IsWhole(const json& value) {
  return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
}

absl::StatusOr<int32_t> Int32(const json& value, const std::string& path) {
  constexpr uint64_t kMax = std::numeric_limits<int32_t>::max();
  if (IsWhole(value) && value.get<uint64_t>() <= kMax) return value.get<int32_t>();
  return Refused(path, absl::StrFormat("%s is not a whole number of 0 to 2^31 - 1", Shown(value)));
}

absl::StatusOr<double> Number(const json& value, const std::string& path) {
  if (!value.is_number()) return Refused(path, absl::StrFormat("%s is no number", Shown(value)));
  return value.get<double>();
}

absl::StatusOr<std::string> Text(const json& value, const std::string& path) {
  if (!value.is_string()) return Refused(path, absl::StrFormat("%s is no text", Shown(value)));
  return value.get<std::string>();
}

absl::StatusOr<bool> Bool(const json& value, const std::string& path) {
  if (!value.is_boolean()) {
    return Refused(path, absl::StrFormat("%s is neither true nor false", Shown(value)));
  }
  return value.get<bool>();
}

absl::StatusOr<std::vector<int32_t>> Ints(const json& value, const std::string& path) {
  if (!value.is_array()) return Refused(path, "is not an array");
  std::vector<int32_t> numbers;
  numbers.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    ASSIGN_OR_RETURN(const int32_t number, Int32(value[i], absl::StrFormat("%s[%d]", path, i)));
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<ChatMessage> ChatMessageFromJson(const json& value, const std::string& path) {
  ChatMessage message;
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, path));
  ASSIGN_OR_RETURN(const json* const role, object.Take("role"));
  ASSIGN_OR_RETURN(message.role, Text(*role, path + ".role"));
  ASSIGN_OR_RETURN(const json* const content, object.Take("content"));
  ASSIGN_OR_RETURN(message.content, Text(*content, path + ".content"));
  if (const json* const reasoning = object.TakeIfThere("reasoning_content")) {
    ASSIGN_OR_RETURN(message.reasoning_content, Text(*reasoning, path + ".reasoning_content"));
  }
  RETURN_IF_ERROR(object.NothingElse());
  return message;
}

absl::StatusOr<context::Range> RangeFromJson(const json& value, const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ends, Ints(value, path));
  if (ends.size() != 2) return Refused(path, "is not [begin, end]");
  return context::Range{ends[0], ends[1]};
}

absl::StatusOr<context::Parameters> ParametersFromJson(const json& value, const std::string& path) {
  context::Parameters p;
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, path));
  for (const auto& [name, field] : {std::pair<const char*, double*>{"mu", &p.mu},
                                    {"lambda", &p.lambda},
                                    {"log_lower", &p.log_lower},
                                    {"log_upper", &p.log_upper}}) {
    ASSIGN_OR_RETURN(const json* const number, object.Take(name));
    ASSIGN_OR_RETURN(*field, Number(*number, path + "." + name));
  }
  ASSIGN_OR_RETURN(const json* const chooser, object.Take("chooser"));
  ASSIGN_OR_RETURN(const std::string chooser_name, Text(*chooser, path + ".chooser"));
  ASSIGN_OR_RETURN(p.chooser, At(path + ".chooser", context::ChooserFromName(chooser_name)));
  ASSIGN_OR_RETURN(const json* const kind, object.Take("reference_kind"));
  ASSIGN_OR_RETURN(const std::string kind_name, Text(*kind, path + ".reference_kind"));
  ASSIGN_OR_RETURN(p.reference_kind,
                   At(path + ".reference_kind", context::ReferenceKindFromName(kind_name)));
  ASSIGN_OR_RETURN(const json* const seed, object.Take("seed"));
  if (!IsWhole(*seed)) return Refused(path + ".seed", "is not a whole number >= 0");
  p.seed = seed->get<uint64_t>();
  ASSIGN_OR_RETURN(const json* const holdout, object.Take("holdout_every"));
  ASSIGN_OR_RETURN(p.holdout_every, Int32(*holdout, path + ".holdout_every"));
  RETURN_IF_ERROR(object.NothingElse());
  return p;
}

absl::StatusOr<context::KeptPositions> KeptFromJson(const json& value, const std::string& path) {
  if (!value.is_array() || value.empty() || !value[0].is_array() || value[0].empty()) {
    return Refused(path, "is not [layer][kv head][positions]");
  }
  context::KeptPositions kept(
      {static_cast<int32_t>(value.size()), static_cast<int32_t>(value[0].size())});
  for (size_t layer = 0; layer < value.size(); ++layer) {
    const std::string at = absl::StrFormat("%s[%d]", path, layer);
    if (!value[layer].is_array() || value[layer].size() != value[0].size()) {
      return Refused(at, absl::StrFormat("has not %d KV heads as layer 0", value[0].size()));
    }
    for (size_t head = 0; head < value[layer].size(); ++head) {
      ASSIGN_OR_RETURN(const std::vector<int32_t> positions,
                       Ints(value[layer][head], absl::StrFormat("%s[%d]", at, head)));
      kept.AddHead(positions);
    }
  }
  return kept;
}

absl::StatusOr<context::Quality> QualityFromJson(const json& value, const std::string& path) {
  context::Quality quality;
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, path));
  for (const auto& [name, field] :
       {std::pair<const char*, double*>{"mass_error", &quality.mass_error},
        {"output_error", &quality.output_error},
        {"kkt_residual", &quality.kkt_residual}}) {
    const json* const number = object.TakeIfThere(name);
    if (number == nullptr) continue;
    ASSIGN_OR_RETURN(*field, Number(*number, path + "." + name));
  }
  for (const auto& [name, field] : {std::pair<const char*, std::optional<double>*>{
                                        "holdout_mass_error", &quality.holdout_mass_error},
                                    {"holdout_output_error", &quality.holdout_output_error}}) {
    const json* const number = object.TakeIfThere(name);
    if (number == nullptr) continue;
    ASSIGN_OR_RETURN(*field, Number(*number, path + "." + name));
  }
  RETURN_IF_ERROR(object.NothingElse());
  return quality;
}

json ParametersJson(const context::Parameters& p) {
  return {{"mu", p.mu},
          {"lambda", p.lambda},
          {"log_lower", p.log_lower},
          {"log_upper", p.log_upper},
          {"chooser", std::string(Name(p.chooser))},
          {"reference_kind", std::string(Name(p.reference_kind))},
          {"seed", p.seed},
          {"holdout_every", p.holdout_every}};
}

json QualityJson(const context::Quality& quality) {
  json out = {{"mass_error", quality.mass_error},
              {"output_error", quality.output_error},
              {"kkt_residual", quality.kkt_residual}};
  if (quality.holdout_mass_error) out["holdout_mass_error"] = *quality.holdout_mass_error;
  if (quality.holdout_output_error) out["holdout_output_error"] = *quality.holdout_output_error;
  return out;
}

json KeptJson(const context::KeptPositions& kept) {
  json layers = json::array();
  for (int layer = 0; layer < kept.shape().layers; ++layer) {
    json heads = json::array();
    for (int head = 0; head < kept.shape().kv_heads; ++head) {
      const std::span<const int32_t> positions = kept.at(layer, head);
      heads.push_back(std::vector<int32_t>(positions.begin(), positions.end()));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

const char* FinishName(rl::FinishReason reason) {
  switch (reason) {
    case rl::FinishReason::kStop:
      return "stop";
    case rl::FinishReason::kLength:
      return "length";
    case rl::FinishReason::kCancelled:
      return "cancelled";
    case rl::FinishReason::kDeadline:
      return "deadline";
    case rl::FinishReason::kFailed:
      break;
  }
  return "failed";
}

// A refusal says where: "... parse error at line 2, column 7: ...".
absl::StatusOr<json> Parse(std::string_view text, const std::string& where) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    const std::string_view what = error.what();
    const size_t begin = std::min(what.size(), what.find("parse error"));
    return Refused(where, "is not JSON: " + ReplaceInvalidUtf8(what.substr(begin, 200)));
  }
}

}  // namespace

json EventJson(const context::Event& event) {
  const bool measured = UsesReference(event.method, event.parameters.chooser);
  return {{"at", event.at},
          {"window", {event.window.begin, event.window.end}},
          {"method", std::string(Name(event.method))},
          {"reference", {event.reference.begin, event.reference.end}},
          {"kept", KeptJson(event.kept)},
          {"parameters", ParametersJson(event.parameters)},
          {"quality", measured ? QualityJson(event.quality) : json(nullptr)},
          {"digest", event.digest ? event.digest->Hex() : ""}};
}

absl::StatusOr<context::Event> EventFromJson(const json& value, const std::string& path) {
  context::Event event;
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, path));
  ASSIGN_OR_RETURN(const json* const at, object.Take("at"));
  ASSIGN_OR_RETURN(event.at, Int32(*at, path + ".at"));
  ASSIGN_OR_RETURN(const json* const window, object.Take("window"));
  ASSIGN_OR_RETURN(event.window, RangeFromJson(*window, path + ".window"));
  ASSIGN_OR_RETURN(const json* const method, object.Take("method"));
  ASSIGN_OR_RETURN(const std::string method_name, Text(*method, path + ".method"));
  ASSIGN_OR_RETURN(event.method, At(path + ".method", context::MethodFromName(method_name)));
  ASSIGN_OR_RETURN(const json* const reference, object.Take("reference"));
  ASSIGN_OR_RETURN(event.reference, RangeFromJson(*reference, path + ".reference"));
  ASSIGN_OR_RETURN(const json* const kept, object.Take("kept"));
  ASSIGN_OR_RETURN(event.kept, KeptFromJson(*kept, path + ".kept"));
  ASSIGN_OR_RETURN(const json* const parameters, object.Take("parameters"));
  ASSIGN_OR_RETURN(event.parameters, ParametersFromJson(*parameters, path + ".parameters"));
  if (const json* const quality = object.TakeIfThere("quality"); quality && !quality->is_null()) {
    ASSIGN_OR_RETURN(event.quality, QualityFromJson(*quality, path + ".quality"));
  }
  if (const json* const digest = object.TakeIfThere("digest"); digest && !digest->is_null()) {
    ASSIGN_OR_RETURN(const std::string hex, Text(*digest, path + ".digest"));
    if (!hex.empty()) {
      ASSIGN_OR_RETURN(event.digest, At(path + ".digest", context::Digest::FromHex(hex)));
    }
  }
  RETURN_IF_ERROR(object.NothingElse());
  return event;
}

json GenerationJson(const rl::Rollout& rollout) {
  const size_t begin = rollout.prompt_tokens;
  json out = {{"prompt_ids", json::array()},
              {"ids", json::array()},
              {"logprobs", json::array()},
              {"origins", json::array()}};
  for (size_t i = 0; i < begin; ++i) out["prompt_ids"].push_back(rollout.tokens[i]);
  for (size_t i = begin; i < rollout.tokens.size(); ++i) {
    out["ids"].push_back(rollout.tokens[i]);
    out["logprobs"].push_back(rollout.logprobs[i]);
    out["origins"].push_back(rollout.origins[i] == rl::Origin::kInjected ? "injected" : "sampled");
  }
  out["finish_reason"] = FinishName(rollout.finish_reason);
  out["events"] = json::array();
  for (const context::Event& event : rollout.events) out["events"].push_back(EventJson(event));
  return out;
}

std::vector<int64_t> PolicyVersions(const rl::Rollout& rollout) {
  std::vector<int64_t> versions;
  for (const rl::Span& span : rollout.spans) {
    const int64_t version = span.version.value();
    if (std::find(versions.begin(), versions.end(), version) == versions.end()) {
      versions.push_back(version);
    }
  }
  return versions;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file || file.bad()) return absl::NotFoundError(path + ": cannot be read");
  return text.str();
}

absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view text, const std::string& where) {
  ASSIGN_OR_RETURN(const json value, Parse(text, where));
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, where));
  ASSIGN_OR_RETURN(const json* const ids, object.Take("ids"));
  return Ints(*ids, where + ": ids");
}

absl::StatusOr<std::vector<int32_t>> ParseSequence(std::string_view text,
                                                   const std::string& where) {
  ASSIGN_OR_RETURN(const json value, Parse(text, where));
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, where));
  std::vector<int32_t> sequence;
  if (const json* const prompt = object.TakeIfThere("prompt_ids")) {
    ASSIGN_OR_RETURN(sequence, Ints(*prompt, where + ": prompt_ids"));
  }
  ASSIGN_OR_RETURN(const json* const ids, object.Take("ids"));
  ASSIGN_OR_RETURN(const std::vector<int32_t> rest, Ints(*ids, where + ": ids"));
  sequence.insert(sequence.end(), rest.begin(), rest.end());
  return sequence;
}

absl::StatusOr<std::vector<context::Event>> ParseEvents(std::string_view text,
                                                        const std::string& where) {
  ASSIGN_OR_RETURN(const json value, Parse(text, where));
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, where));
  ASSIGN_OR_RETURN(const json* const array, object.Take("events"));
  if (!array->is_array()) return Refused(where + ": events", "is not an array");
  std::vector<context::Event> events;
  for (size_t i = 0; i < array->size(); ++i) {
    ASSIGN_OR_RETURN(context::Event event,
                     EventFromJson((*array)[i], absl::StrFormat("%s: events[%d]", where, i)));
    events.push_back(std::move(event));
  }
  return events;
}

absl::StatusOr<Chat> ParseChat(std::string_view text, const std::string& where) {
  ASSIGN_OR_RETURN(const json value, Parse(text, where));
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, where));
  ASSIGN_OR_RETURN(const json* const messages, object.Take("messages"));
  if (!messages->is_array()) return Refused(where + ": messages", "is not an array");
  Chat chat;
  for (size_t i = 0; i < messages->size(); ++i) {
    ASSIGN_OR_RETURN(
        ChatMessage message,
        ChatMessageFromJson((*messages)[i], absl::StrFormat("%s: messages[%d]", where, i)));
    chat.messages.push_back(std::move(message));
  }
  if (const json* const prompt = object.TakeIfThere("add_generation_prompt")) {
    ASSIGN_OR_RETURN(chat.add_generation_prompt, Bool(*prompt, where + ": add_generation_prompt"));
  }
  if (const json* const thinking = object.TakeIfThere("enable_thinking")) {
    ASSIGN_OR_RETURN(chat.enable_thinking, Bool(*thinking, where + ": enable_thinking"));
  }
  if (const json* const date = object.TakeIfThere("date_string")) {
    ASSIGN_OR_RETURN(chat.date_string, Text(*date, where + ": date_string"));
  }
  RETURN_IF_ERROR(object.NothingElse());
  return chat;
}

absl::StatusOr<std::string> ParseText(std::string_view text, const std::string& where) {
  ASSIGN_OR_RETURN(const json value, Parse(text, where));
  ASSIGN_OR_RETURN(ObjectReader object, ObjectReader::Open(value, where));
  ASSIGN_OR_RETURN(const json* const body, object.Take("text"));
  return Text(*body, where + ": text");
}

}  // namespace palimpsest::tools
