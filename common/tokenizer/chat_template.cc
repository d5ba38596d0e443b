#include "common/tokenizer/chat_template.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/regular_file.h"
#include "common/base/status.h"
#include "common/tokenizer/chat_render.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kJinja = "chat_template.jinja";
constexpr int64_t kMaxFile = int64_t{16} << 20;  // bytes

absl::Status Refusal(const std::string& what) { return absl::FailedPreconditionError(what); }

// nullopt: there is no such file.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& folder, const char* name) {
  absl::StatusOr<std::string> text = ReadRegularFile(folder + "/" + name, kMaxFile);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) return text.status();
  return *std::move(text);
}

// The member's text, also that of {"content": ..}, as special tokens are written.
std::string BosToken(const Json& config) {
  const auto bos = config.find("bos_token");
  if (bos == config.end()) return "";
  if (bos->is_string()) return bos->get<std::string>();
  if (!bos->is_object() || !bos->contains("content")) return "";
  const Json& content = (*bos)["content"];
  return content.is_string() ? content.get<std::string>() : "";
}

// The template among the members of tokenizer_config.json.
absl::StatusOr<std::string> ConfigTemplate(const Json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) {
    return Refusal(
        absl::StrFormat("has no chat template: no %s, and no chat_template in %s;"
                        " the prompt can be sent as text or ids instead",
                        kJinja, kConfig));
  }
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const Json& item : *found) {
      if (!item.is_object() || !item.contains("name") || item["name"] != "default") continue;
      if (item.contains("template") && item["template"].is_string()) {
        return item["template"].get<std::string>();
      }
    }
  }
  return Refusal(
      absl::StrFormat("%s: chat_template is neither a text nor a list that has a template named "
                      "\"default\"",
                      kConfig));
}

absl::StatusOr<Json> ReadConfig(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadFile(folder, kConfig));
  if (!text) return Json::object();
  Json config = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return Refusal(absl::StrFormat("%s is no JSON object", kConfig));
  return config;
}

absl::StatusOr<ChatTemplate> OwnTemplate(const std::string& folder, const Json& config) {
  ASSIGN_OR_RETURN(const std::optional<std::string> jinja, ReadFile(folder, kJinja));
  std::string text = jinja.value_or("");
  if (!jinja) {
    ASSIGN_OR_RETURN(text, ConfigTemplate(config));
  }
  absl::StatusOr<ChatTemplate> own = ChatTemplate::FromText(text, BosToken(config));
  if (own.ok()) return own;
  return Refusal(
      absl::StrFormat("%s: %s", jinja ? kJinja : kConfig, std::string(own.status().message())));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromText(std::string_view text,
                                                    std::string_view bos_token) {
  ASSIGN_OR_RETURN(KnownTemplate known, RecogniseTemplate(text));
  const bool llama = known.family == ChatFamily::kLlama3 || known.family == ChatFamily::kLlama31;
  if (llama && bos_token.empty()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the %s template begins with bos_token, which %s does not name", known.name, kConfig));
  }
  return ChatTemplate(std::move(known), bos_token);
}

absl::StatusOr<std::string> ChatTemplate::Render(const Chat& chat) const {
  RETURN_IF_ERROR(CheckChat(known_, chat));
  return RenderChat(known_, bos_token_, chat);
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(const Chat& chat,
                                                          const Tokenizer& tokenizer) const {
  ASSIGN_OR_RETURN(const std::string text, Render(chat));
  for (const std::string_view token : ControlTokens(known_.family)) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(token));
    if (ids.size() == 1) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("the %s template writes %s, which is %d tokens of tokenizer.json, not one",
                        known_.name, token, ids.size()));
  }
  return tokenizer.Encode(text);
}

FolderChat FolderChat::Read(const std::string& folder, const std::string& called) {
  const auto about = [&](const absl::Status& refusal) {
    return Refusal(absl::StrFormat("%s: %s", called.empty() ? folder : called,
                                   std::string(refusal.message())));
  };
  const absl::StatusOr<Json> config = ReadConfig(folder);
  if (!config.ok()) return FolderChat(about(config.status()), "");
  absl::StatusOr<ChatTemplate> own = OwnTemplate(folder, *config);
  if (!own.ok()) own = about(own.status());
  return FolderChat(std::move(own), BosToken(*config));
}

}  // namespace palimpsest
