#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/tokenizer/known_templates.h"
#include "common/tokenizer/tokenizer.h"

namespace palimpsest {

struct ChatMessage {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::optional<std::string> reasoning_content = std::nullopt;  // assistant of Qwen3 only

  bool operator==(const ChatMessage&) const = default;
};

struct Chat {
  std::vector<ChatMessage> messages;  // not empty
  bool add_generation_prompt = true;
  std::optional<bool> enable_thinking = std::nullopt;  // Qwen3 only; absent = thinks
  std::string date_string = "";  // Llama-3.1 and 3.2 only; empty = the template's own

  bool operator==(const Chat&) const = default;
};

// One of the known chat templates. A value; const use from any thread.
class ChatTemplate {
 public:
  // FAILED_PRECONDITION: the text is none of the known templates (see RecogniseTemplate), or it
  // begins with `bos_token`, which is empty.
  static absl::StatusOr<ChatTemplate> FromText(std::string_view text, std::string_view bos_token);

  // As transformers' apply_chat_template(tokenize=False). What the template has no place for is
  // refused: INVALID_ARGUMENT, the message begins with the field ("messages[2].role=..").
  absl::StatusOr<std::string> Render(const Chat& chat) const;

  // As apply_chat_template(tokenize=True): the ids of Render, nothing added. As there, a content
  // that spells a special token becomes that token: who lets strangers write contents takes them
  // out. FAILED_PRECONDITION: the tokenizer has no single id for a token that the template writes.
  absl::StatusOr<std::vector<int32_t>> Encode(const Chat& chat, const Tokenizer& tokenizer) const;

  std::string_view name() const { return known_.name; }

 private:
  ChatTemplate(KnownTemplate known, std::string_view bos_token)
      : known_(std::move(known)), bos_token_(bos_token) {}

  KnownTemplate known_;
  std::string bos_token_;
};

// What a model folder says about conversations, read once: the template it has, or why there is
// none that can be used. chat_template.jinja goes before tokenizer_config.json's chat_template
// (a text, or a list of named ones: the one named "default").
class FolderChat {
 public:
  // Refusals begin with `called`; empty: with the folder.
  static FolderChat Read(const std::string& folder, const std::string& called = "");

  // FAILED_PRECONDITION names the file and what was found in it.
  const absl::StatusOr<ChatTemplate>& own() const { return own_; }
  // A template that the caller brings, with the folder's bos_token.
  absl::StatusOr<ChatTemplate> Given(std::string_view text) const {
    return ChatTemplate::FromText(text, bos_token_);
  }

 private:
  FolderChat(absl::StatusOr<ChatTemplate> own, std::string bos_token)
      : own_(std::move(own)), bos_token_(std::move(bos_token)) {}

  absl::StatusOr<ChatTemplate> own_;
  std::string bos_token_;  // empty: the folder names none
};

}  // namespace palimpsest
