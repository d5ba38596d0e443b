#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/tokenizer/chat_template.h"

namespace palimpsest {

// What the chat asks that no template, or not this one, can do. See ChatTemplate::Render.
absl::Status CheckChat(const KnownTemplate& known, const Chat& chat);

// `chat` passed CheckChat.
std::string RenderChat(const KnownTemplate& known, std::string_view bos_token, const Chat& chat);

// The tokens that RenderChat writes around every message.
std::span<const std::string_view> ControlTokens(ChatFamily family);

}  // namespace palimpsest
