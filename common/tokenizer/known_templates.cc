#include "common/tokenizer/known_templates.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/tokenizer/template_text.h"

namespace palimpsest {
namespace {

constexpr size_t kMaxTemplate = size_t{1} << 18;  // bytes; published ones have under 10,000
constexpr size_t kShown = 160;                    // bytes of a statement in a message

// Statements as TemplateStatements spells them; @ stands for the template's own constant.

constexpr std::string_view kImTurn =
    R"(emit "<|im_start|>" message.role "\n" message.content "<|im_end|>\n"
)";
constexpr std::string_view kImPrompt = R"(if add_generation_prompt
emit "<|im_start|>assistant\n"
endif
)";
constexpr std::string_view kNoPromptUnlessAsked = R"(if not add_generation_prompt is defined
set add_generation_prompt = false
endif
)";
constexpr std::string_view kEachMessage = R"(for message in messages
)";
constexpr std::string_view kEndEach = R"(endfor
)";
constexpr std::string_view kImDefaultSystem = R"(if loop.first and messages[0].role != "system"
emit "<|im_start|>system\n@<|im_end|>\n"
endif
)";

constexpr std::string_view kQwen25 = R"(if messages[0].role == "system"
emit "<|im_start|>system\n" messages[0].content "<|im_end|>\n"
else
emit "<|im_start|>system\n@<|im_end|>\n"
endif
for message in messages
if (message.role == "user") or(message.role == "system" and not loop.first) or(message.role == "assistant" and not message.tool_calls)
emit "<|im_start|>" message.role "\n" message.content "<|im_end|>\n"
elif message.role == "assistant"
emit "<|im_start|>" message.role
if message.content
emit "\n" message.content
endif
emit "<|im_end|>\n"
elif message.role == "tool"
if (loop.index0 == 0) or(messages[loop.index0 - 1].role != "tool")
emit "<|im_start|>user"
endif
emit "\n<tool_response>\n" message.content "\n</tool_response>"
if loop.last or(messages[loop.index0 + 1].role != "tool")
emit "<|im_end|>\n"
endif
endif
endfor
)";

constexpr std::string_view kQwen3Begin = R"(if messages[0].role == "system"
emit "<|im_start|>system\n" messages[0].content "<|im_end|>\n"
endif
set ns = namespace(multi_step_tool = true, last_query_index = messages | length - 1)
for message in messages[:: - 1]
set index =(messages | length - 1) - loop.index0
)";
constexpr std::string_view kQwen3Query =
    R"(if ns.multi_step_tool and message.role == "user" and not(message.content.startswith("<tool_response>") and message.content.endswith("</tool_response>"))
)";
constexpr std::string_view kQwen3TextQuery =
    R"(if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith("<tool_response>") and message.content.endswith("</tool_response>"))
)";
constexpr std::string_view kQwen3EndQuery = R"(set ns.multi_step_tool = false
set ns.last_query_index = index
endif
endfor
for message in messages
)";
constexpr std::string_view kQwen3FirstThought =
    R"(if (message.role == "user") or(message.role == "system" and not loop.first)
emit "<|im_start|>" message.role "\n" message.content "<|im_end|>\n"
elif message.role == "assistant"
set content = message.content
set reasoning_content = ""
if message.reasoning_content is defined and message.reasoning_content is not none
set reasoning_content = message.reasoning_content
else
if "</think>" in message.content
set content = message.content.split("</think>")[- 1].lstrip("\n")
set reasoning_content = message.content.split("</think>")[0].rstrip("\n").split("<think>")[- 1].lstrip("\n")
endif
endif
)";
constexpr std::string_view kQwen3Thought = R"(if message.content is string
set content = message.content
else
set content = ""
endif
if (message.role == "user") or(message.role == "system" and not loop.first)
emit "<|im_start|>" message.role "\n" content "<|im_end|>\n"
elif message.role == "assistant"
set reasoning_content = ""
if message.reasoning_content is string
set reasoning_content = message.reasoning_content
else
if "</think>" in content
set reasoning_content = content.split("</think>")[0].rstrip("\n").split("<think>")[- 1].lstrip("\n")
set content = content.split("</think>")[- 1].lstrip("\n")
endif
endif
)";
constexpr std::string_view kQwen3Answer = R"(if loop.index0 > ns.last_query_index
if loop.last or(not loop.last and reasoning_content)
emit "<|im_start|>" message.role "\n<think>\n" reasoning_content.strip("\n") "\n</think>\n\n" content.lstrip("\n")
else
emit "<|im_start|>" message.role "\n" content
endif
else
emit "<|im_start|>" message.role "\n" content
endif
emit "<|im_end|>\n"
elif message.role == "tool"
if loop.first or(messages[loop.index0 - 1].role != "tool")
emit "<|im_start|>user"
endif
)";
constexpr std::string_view kQwen3FirstTool =
    R"(emit "\n<tool_response>\n" message.content "\n</tool_response>"
)";
constexpr std::string_view kQwen3Tool = R"(emit "\n<tool_response>\n" content "\n</tool_response>"
)";
constexpr std::string_view kQwen3End = R"(if loop.last or(messages[loop.index0 + 1].role != "tool")
emit "<|im_end|>\n"
endif
endif
endfor
if add_generation_prompt
emit "<|im_start|>assistant\n"
if enable_thinking is defined and enable_thinking is false
emit "<think>\n\n</think>\n\n"
endif
endif
)";

constexpr std::string_view kLlama3 = R"(set loop_messages = messages
for message in loop_messages
set content = "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n" + message.content | trim + "<|eot_id|>"
if loop.index0 == 0
set content = bos_token + content
endif
emit content
endfor
)";
constexpr std::string_view kLlamaIfPrompt = R"(if add_generation_prompt
)";
constexpr std::string_view kLlamaPrompt =
    R"(emit "<|start_header_id|>assistant<|end_header_id|>\n\n"
)";
constexpr std::string_view kEndIf = R"(endif
)";
constexpr std::string_view kLlama31Begin = R"(emit bos_token
if not tools_in_user_message is defined
set tools_in_user_message = true
endif
if not date_string is defined
)";
constexpr std::string_view kLlama31Date = R"(set date_string = "@"
endif
)";
constexpr std::string_view kLlama32Date = R"(if strftime_now is defined
set date_string = strftime_now("%d %b %Y")
else
set date_string = "@"
endif
endif
)";
constexpr std::string_view kLlama31Turns = R"(if not tools is defined
set tools = none
endif
if messages[0].role == "system"
set system_message = messages[0].content | trim
set messages = messages[1:]
else
set system_message = ""
endif
emit "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: " date_string "\n\n" system_message "<|eot_id|>"
for message in messages
if not(message.role == "ipython" or message.role == "tool" or "tool_calls" in message)
emit "<|start_header_id|>" message.role "<|end_header_id|>\n\n" message.content | trim "<|eot_id|>"
elif message.role == "tool" or message.role == "ipython"
emit "<|start_header_id|>ipython<|end_header_id|>\n\n"
if message.content is mapping or message.content is iterable
emit message.content | tojson
else
emit message.content
endif
emit "<|eot_id|>"
endif
endfor
)";

struct Text {
  KnownTemplate known;
  std::vector<std::string_view> parts;
};

const std::vector<Text>& Texts() {
  using enum ChatFamily;
  static const auto* const texts = new std::vector<Text>{
      {{kChatMl, "ChatML"}, {kEachMessage, kImTurn, kEndEach, kImPrompt}},
      {{kChatMl, "ChatML"}, {kNoPromptUnlessAsked, kEachMessage, kImTurn, kEndEach, kImPrompt}},
      {{kChatMl, "ChatML"}, {kEachMessage, kImDefaultSystem, kImTurn, kEndEach, kImPrompt}},
      {{ChatFamily::kQwen25, "Qwen2.5"}, {palimpsest::kQwen25, kImPrompt}},
      {{kQwen3, "Qwen3"},
       {kQwen3Begin, kQwen3TextQuery, kQwen3EndQuery, kQwen3Thought, kQwen3Answer, kQwen3Tool,
        kQwen3End}},
      {{kQwen3, "Qwen3"},
       {kQwen3Begin, kQwen3TextQuery, kQwen3EndQuery, kQwen3FirstThought, kQwen3Answer,
        kQwen3FirstTool, kQwen3End}},
      {{kQwen3, "Qwen3"},
       {kQwen3Begin, kQwen3Query, kQwen3EndQuery, kQwen3FirstThought, kQwen3Answer, kQwen3FirstTool,
        kQwen3End}},
      {{ChatFamily::kLlama3, "Llama-3"},
       {palimpsest::kLlama3, kLlamaIfPrompt, kLlamaPrompt, kEndIf}},
      {{ChatFamily::kLlama3, "Llama-3", /*always_prompts=*/true},
       {palimpsest::kLlama3, kLlamaPrompt}},
      {{kLlama31, "Llama-3.1"},
       {kLlama31Begin, kLlama31Date, kLlama31Turns, kLlamaIfPrompt, kLlamaPrompt, kEndIf}},
      {{kLlama31, "Llama-3.2", false, /*reads_clock=*/true},
       {kLlama31Begin, kLlama32Date, kLlama31Turns, kLlamaIfPrompt, kLlamaPrompt, kEndIf}},
  };
  return *texts;
}

std::vector<std::string> Lines(const Text& text) {
  std::string all;
  for (const std::string_view part : text.parts) all += part;
  all.pop_back();  // the last part ends its line, too
  return absl::StrSplit(all, '\n');
}

// What stands for the @ of `known`, "" when it has none; nullopt: another statement. A constant
// with a control token in it is not one message.
std::optional<std::string> Same(std::string_view known, std::string_view line) {
  const size_t at = known.find('@');
  if (at == std::string_view::npos) return known == line ? std::optional("") : std::nullopt;
  const std::string_view before = known.substr(0, at), after = known.substr(at + 1);
  if (line.size() <= before.size() + after.size() || !line.starts_with(before) ||
      !line.ends_with(after)) {
    return std::nullopt;
  }
  line.remove_prefix(before.size());
  line.remove_suffix(after.size());
  if (line.find("<|") != std::string_view::npos) return std::nullopt;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') return std::nullopt;  // the literal ends here
    if (line[i] == '\\') ++i;
  }
  return UnquoteLiteral(line);
}

std::string Shown(const std::vector<std::string>& lines, size_t i) {
  if (i >= lines.size()) return "the end";
  return "`" + lines[i].substr(0, kShown) + (lines[i].size() > kShown ? "..`" : "`");
}

}  // namespace

absl::StatusOr<KnownTemplate> RecogniseTemplate(std::string_view text) {
  constexpr const char* kKnown =
      "known are ChatML, Qwen2.5, Qwen3, Llama-3, Llama-3.1 and Llama-3.2; the prompt can be sent "
      "as text or ids instead";
  if (text.size() > kMaxTemplate) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "chat template of %d bytes, at most %d; %s", text.size(), kMaxTemplate, kKnown));
  }
  const absl::StatusOr<std::vector<std::string>> lines = TemplateStatements(text);
  if (!lines.ok()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("chat template that cannot be read: %s; %s",
                        std::string(lines.status().message()), kKnown));
  }
  size_t most = 0;
  std::string nearest;
  for (const Text& candidate : Texts()) {
    const std::vector<std::string> want = Lines(candidate);
    KnownTemplate known = candidate.known;
    size_t same = 0;
    for (; same < want.size() && same < lines->size(); ++same) {
      const std::optional<std::string> constant = Same(want[same], (*lines)[same]);
      if (!constant) break;
      known.constant += *constant;
    }
    if (same == want.size() && same == lines->size()) return known;
    if (!nearest.empty() && same <= most) continue;
    most = same;
    nearest = absl::StrFormat("nearest is %s, but statement %d is %s where it has %s", known.name,
                              same + 1, Shown(*lines, same), Shown(want, same));
  }
  return absl::FailedPreconditionError(
      absl::StrFormat("chat template that is not known: %s; %s", nearest, kKnown));
}

}  // namespace palimpsest
