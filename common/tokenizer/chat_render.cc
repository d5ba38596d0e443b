#include "common/tokenizer/chat_render.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

// The characters that Python's str.strip() takes away.
bool IsPythonSpace(char32_t c) {
  constexpr std::array<std::pair<char32_t, char32_t>, 10> kRanges = {{{0x09, 0x0d},
                                                                      {0x1c, 0x20},
                                                                      {0x85, 0x85},
                                                                      {0xa0, 0xa0},
                                                                      {0x1680, 0x1680},
                                                                      {0x2000, 0x200a},
                                                                      {0x2028, 0x2029},
                                                                      {0x202f, 0x202f},
                                                                      {0x205f, 0x205f},
                                                                      {0x3000, 0x3000}}};
  return std::any_of(kRanges.begin(), kRanges.end(),
                     [c](const auto& range) { return range.first <= c && c <= range.second; });
}

std::string_view Trimmed(std::string_view text) {
  size_t begin = text.size(), end = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = StepUtf8(text, at);
    if (step.kind != Utf8Step::Kind::kWhole || !IsPythonSpace(step.code_point)) {
      begin = std::min(begin, at);
      end = at + step.length;
    }
    at += step.length;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

std::string_view WithoutFirstLines(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}
std::string_view WithoutLastLines(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);  // npos + 1 = 0
}

void AppendImTurn(std::string_view role, std::string_view content, std::string& out) {
  out += absl::StrFormat("<|im_start|>%s\n%s<|im_end|>\n", role, content);
}

// Results of tools stand in a user's turn, those of one run in the same.
void AppendToolResult(const Chat& chat, size_t i, std::string& out) {
  const auto is_tool = [&](size_t k) { return chat.messages[k].role == "tool"; };
  if (i == 0 || !is_tool(i - 1)) out += "<|im_start|>user";
  out += absl::StrFormat("\n<tool_response>\n%s\n</tool_response>", chat.messages[i].content);
  if (i + 1 == chat.messages.size() || !is_tool(i + 1)) out += "<|im_end|>\n";
}

std::string RenderChatMl(const KnownTemplate& known, const Chat& chat) {
  std::string out;
  if (!known.constant.empty() && chat.messages[0].role != "system") {
    AppendImTurn("system", known.constant, out);
  }
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    if (known.family == ChatFamily::kQwen25 && message.role == "tool") {
      AppendToolResult(chat, i, out);
    } else {
      AppendImTurn(message.role, message.content, out);
    }
  }
  if (chat.add_generation_prompt) out += "<|im_start|>assistant\n";
  return out;
}

// The last message of a user that is no result of a tool; without one, the last message.
size_t LastQuery(const Chat& chat) {
  for (size_t i = chat.messages.size(); i-- > 0;) {
    const ChatMessage& message = chat.messages[i];
    if (message.role == "user" && !(message.content.starts_with("<tool_response>") &&
                                    message.content.ends_with("</tool_response>"))) {
      return i;
    }
  }
  return chat.messages.size() - 1;
}

// An assistant's thoughts are shown after the last query only; its answer alone before it.
void AppendQwen3Answer(const ChatMessage& message, bool after_query, bool last, std::string& out) {
  std::string_view content = message.content, thought;
  const size_t first_end = content.find(kEndThink);
  if (message.reasoning_content) {
    thought = *message.reasoning_content;
  } else if (first_end != std::string_view::npos) {
    thought = WithoutLastLines(content.substr(0, first_end));
    const size_t open = thought.rfind(kThink);
    if (open != std::string_view::npos) thought.remove_prefix(open + kThink.size());
    thought = WithoutFirstLines(thought);
    content = WithoutFirstLines(content.substr(content.rfind(kEndThink) + kEndThink.size()));
  }
  if (!after_query || (!last && thought.empty())) {
    return AppendImTurn(message.role, content, out);
  }
  AppendImTurn(
      message.role,
      absl::StrFormat("<think>\n%s\n</think>\n\n%s", WithoutFirstLines(WithoutLastLines(thought)),
                      WithoutFirstLines(content)),
      out);
}

std::string RenderQwen3(const Chat& chat) {
  std::string out;
  const size_t query = LastQuery(chat);
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    if (message.role == "tool") {
      AppendToolResult(chat, i, out);
    } else if (message.role == "assistant") {
      AppendQwen3Answer(message, i > query, i + 1 == chat.messages.size(), out);
    } else {
      AppendImTurn(message.role, message.content, out);
    }
  }
  if (chat.add_generation_prompt) {
    out += "<|im_start|>assistant\n";
    if (!chat.enable_thinking.value_or(true)) out += "<think>\n\n</think>\n\n";
  }
  return out;
}

void AppendHeader(std::string_view role, std::string& out) {
  out += absl::StrFormat("<|start_header_id|>%s<|end_header_id|>\n\n", role);
}

std::string RenderLlama(const KnownTemplate& known, std::string_view bos_token, const Chat& chat) {
  std::string out(bos_token);
  size_t begin = 0;
  if (known.family == ChatFamily::kLlama31) {
    AppendHeader("system", out);
    out += absl::StrFormat("Cutting Knowledge Date: December 2023\nToday Date: %s\n\n",
                           chat.date_string.empty() ? known.constant : chat.date_string);
    if (chat.messages[0].role == "system") out += Trimmed(chat.messages[begin++].content);
    out += "<|eot_id|>";
  }
  for (size_t i = begin; i < chat.messages.size(); ++i) {
    AppendHeader(chat.messages[i].role, out);
    out += Trimmed(chat.messages[i].content);
    out += "<|eot_id|>";
  }
  if (chat.add_generation_prompt) AppendHeader("assistant", out);
  return out;
}

absl::Status CheckMessage(const KnownTemplate& known, const ChatMessage& message, size_t i) {
  constexpr std::array kRoles = {"system", "user", "assistant", "tool"};
  if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("messages[%d].role=%s is none of system, user, assistant, tool", i,
                        message.role.substr(0, 64)));
  }
  if (message.role == "tool" && known.family == ChatFamily::kLlama31) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "messages[%d].role=tool: tools are not served for the %s template", i, known.name));
  }
  if (message.reasoning_content && known.family != ChatFamily::kQwen3) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "messages[%d].reasoning_content: the %s template has no place for it", i, known.name));
  }
  if (message.reasoning_content && message.role != "assistant") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "messages[%d].reasoning_content: only an assistant has it, role=%s", i, message.role));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckChat(const KnownTemplate& known, const Chat& chat) {
  const auto no_place = [&](std::string_view field) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the %s template has no place for it", field, known.name));
  };
  if (chat.messages.empty()) return absl::InvalidArgumentError("messages: is empty");
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    if (absl::Status status = CheckMessage(known, chat.messages[i], i); !status.ok()) return status;
  }
  if (chat.enable_thinking && known.family != ChatFamily::kQwen3) {
    return no_place(*chat.enable_thinking ? "enable_thinking=true" : "enable_thinking=false");
  }
  if (!chat.date_string.empty() && known.family != ChatFamily::kLlama31) {
    return no_place(absl::StrFormat("date_string=%s", chat.date_string.substr(0, 64)));
  }
  if (chat.date_string.empty() && known.reads_clock) {
    return absl::InvalidArgumentError(
        absl::StrFormat("date_string: is empty; the %s template would read the clock", known.name));
  }
  if (!chat.add_generation_prompt && known.always_prompts) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "add_generation_prompt=false: the model's %s template always adds it", known.name));
  }
  return absl::OkStatus();
}

std::string RenderChat(const KnownTemplate& known, std::string_view bos_token, const Chat& chat) {
  switch (known.family) {
    case ChatFamily::kChatMl:
    case ChatFamily::kQwen25:
      return RenderChatMl(known, chat);
    case ChatFamily::kQwen3:
      return RenderQwen3(chat);
    case ChatFamily::kLlama3:
    case ChatFamily::kLlama31:
      break;
  }
  return RenderLlama(known, bos_token, chat);
}

std::span<const std::string_view> ControlTokens(ChatFamily family) {
  static constexpr std::array<std::string_view, 2> kIm = {"<|im_start|>", "<|im_end|>"};
  static constexpr std::array<std::string_view, 3> kLlama = {"<|start_header_id|>",
                                                             "<|end_header_id|>", "<|eot_id|>"};
  if (family == ChatFamily::kLlama3 || family == ChatFamily::kLlama31) return kLlama;
  return kIm;
}

}  // namespace palimpsest
