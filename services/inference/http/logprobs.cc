#include "services/inference/http/logprobs.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

std::optional<std::string_view> BytesOf(int32_t id, const Tokenizer* tokenizer) {
  return tokenizer == nullptr ? std::nullopt : tokenizer->TokenBytes(id);
}

// Characters that begin in the token. Special tokens are not in the text.
int64_t Characters(int32_t id, const Tokenizer* tokenizer) {
  const std::optional<std::string_view> bytes = BytesOf(id, tokenizer);
  if (!bytes || tokenizer->IsSpecial(id)) return 0;
  return std::count_if(bytes->begin(), bytes->end(), [](char c) { return (c & 0xC0) != 0x80; });
}

json Entry(int32_t id, float logprob, const Tokenizer* tokenizer) {
  json bytes = nullptr;
  if (const auto known = BytesOf(id, tokenizer)) {
    bytes = json::array();
    for (const char byte : *known) bytes.push_back(static_cast<unsigned char>(byte));
  }
  return {{"token", TokenName(id, tokenizer)}, {"logprob", logprob}, {"bytes", bytes}};
}

}  // namespace

std::string TokenName(int32_t id, const Tokenizer* tokenizer) {
  const std::optional<std::string_view> bytes = BytesOf(id, tokenizer);
  if (!bytes) return absl::StrFormat("token_id:%d", id);
  if (IsValidUtf8(*bytes)) return std::string(*bytes);
  std::string name = "bytes:";
  for (const char byte : *bytes) {
    name += absl::StrFormat("\\x%02x", static_cast<unsigned char>(byte));
  }
  return name;
}

json ChatLogprobs(const v1::TokenChunk& chunk, const Tokenizer* tokenizer) {
  json content = json::array();
  for (int i = 0; i < chunk.ids_size(); ++i) {
    json entry = Entry(chunk.ids(i), chunk.logprobs(i), tokenizer);
    json& top = entry["top_logprobs"] = json::array();
    if (i < chunk.top_logprobs_size()) {
      const v1::Alternatives& others = chunk.top_logprobs(i);
      for (int k = 0; k < others.ids_size(); ++k) {
        top.push_back(Entry(others.ids(k), others.logprobs(k), tokenizer));
      }
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

json CompletionLogprobs(const v1::TokenChunk& chunk, const Tokenizer* tokenizer, int64_t& offset) {
  json all = {{"tokens", json::array()},
              {"token_logprobs", json::array()},
              {"top_logprobs", json::array()},
              {"text_offset", json::array()}};
  for (int i = 0; i < chunk.ids_size(); ++i) {
    const std::string name = TokenName(chunk.ids(i), tokenizer);
    json top = {{name, chunk.logprobs(i)}};
    if (i < chunk.top_logprobs_size()) {
      const v1::Alternatives& others = chunk.top_logprobs(i);
      // The likelier of two tokens that are written alike stays.
      for (int k = 0; k < others.ids_size(); ++k) {
        top.emplace(TokenName(others.ids(k), tokenizer), others.logprobs(k));
      }
    }
    all["tokens"].push_back(name);
    all["token_logprobs"].push_back(chunk.logprobs(i));
    all["top_logprobs"].push_back(std::move(top));
    all["text_offset"].push_back(offset);
    offset += Characters(chunk.ids(i), tokenizer);
  }
  return all;
}

void AppendLogprobs(const json& more, json& all) {
  if (all.is_null()) {
    all = more;
    return;
  }
  for (const auto& item : more.items()) {
    if (!item.value().is_array()) continue;
    json& list = all[item.key()];
    list.insert(list.end(), item.value().begin(), item.value().end());
  }
}

}  // namespace palimpsest::inference
