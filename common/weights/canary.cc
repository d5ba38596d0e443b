#include "common/weights/canary.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/weights/checked_json.h"

namespace palimpsest::weights {
namespace {

absl::Status Malformed(const char* key) {
  return absl::DataLossError(absl::StrFormat("canary: '%s' is missing or malformed", key));
}

absl::StatusOr<CanaryPrompt> ReadPrompt(const Json& json) {
  if (!json.is_object()) return Malformed("prompts");
  const auto ids = json.find("ids"), logprobs = json.find("logprobs");
  if (ids == json.end() || !ids->is_array() || ids->size() < 2) return Malformed("ids");
  if (logprobs == json.end() || !logprobs->is_array() || logprobs->size() + 1 != ids->size())
    return Malformed("logprobs");
  CanaryPrompt prompt;
  for (const Json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) return Malformed("ids");
    prompt.ids.push_back(id.get<int32_t>());
  }
  for (const Json& logprob : *logprobs) {
    if (!logprob.is_number() || !std::isfinite(logprob.get<float>())) return Malformed("logprobs");
    prompt.logprobs.push_back(logprob.get<float>());
  }
  return prompt;
}

}  // namespace

std::string ToJson(std::span<const CanaryPrompt> prompts) {
  Json list = Json::array();
  for (const CanaryPrompt& p : prompts) list.push_back({{"ids", p.ids}, {"logprobs", p.logprobs}});
  return Json{{"prompts", std::move(list)}}.dump() + "\n";
}

absl::StatusOr<std::vector<CanaryPrompt>> CanaryFromJson(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text));
  const auto list = json.find("prompts");
  if (list == json.end() || !list->is_array() || list->empty()) return Malformed("prompts");
  std::vector<CanaryPrompt> prompts;
  for (const Json& item : *list) {
    ASSIGN_OR_RETURN(CanaryPrompt prompt, ReadPrompt(item));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace palimpsest::weights
