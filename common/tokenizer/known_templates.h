#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace palimpsest {

enum class ChatFamily { kChatMl, kQwen25, kQwen3, kLlama3, kLlama31 };

struct KnownTemplate {
  ChatFamily family = ChatFamily::kChatMl;
  std::string_view name;        // for messages: "Qwen3"
  bool always_prompts = false;  // adds the generation prompt whether asked or not
  bool reads_clock = false;     // without a date_string it takes today
  // Stands in the template's text: kChatMl, kQwen25 the system message of a conversation without
  // one (kChatMl: empty = none), kLlama31 the date without a date_string.
  std::string constant;
};

// The template that says, statement by statement (see TemplateStatements), what one of the known
// ones says. FAILED_PRECONDITION: none does; names the known ones, the nearest and the first
// statement in which it differs.
absl::StatusOr<KnownTemplate> RecogniseTemplate(std::string_view text);

}  // namespace palimpsest
