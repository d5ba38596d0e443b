#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/inference/http/ask_fields.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

// Null, and an empty list, say that there is none.
void RefuseIfSaid(Fields& fields, std::string_view name) {
  const json* const value = fields.Any(name);
  if (value == nullptr || (value->is_array() && value->empty())) return;
  fields.Refuse(name, "not supported by this server");
}

// A text, or a list of parts of type text, which stand on lines of their own (as vLLM has it).
std::string ReadContent(Fields& message) {
  const json* const content = message.Any("content");
  if (content == nullptr) {
    message.Refuse("content", "is missing");
    return "";
  }
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    message.RefuseValue(message.Path("content"), *content, "a string or a list of parts");
    return "";
  }
  std::string whole;
  for (size_t i = 0; i < content->size(); ++i) {
    Fields part((*content)[i], absl::StrFormat("%s[%d]", message.Path("content"), i));
    if (const std::string type = part.Text("type").value_or(""); type != "text") {
      part.Refuse("type", absl::StrFormat("\"%s\" is not supported, only text is", type));
    }
    const std::optional<std::string> text = part.Text("text");
    if (!text) part.Refuse("text", "is missing");
    whole += (i > 0 ? "\n" : "") + text.value_or("");
    message.Keep(part.Finish());
  }
  return whole;
}

void ReadMessage(const json& value, const std::string& path, Fields& body,
                 v1::ChatMessage& message) {
  Fields fields(value, path);
  message.set_role(fields.Text("role").value_or(""));
  message.set_content(ReadContent(fields));
  if (auto v = fields.Text("reasoning_content")) message.set_reasoning_content(*std::move(v));
  // What clients send back, as null, of a message that they were given.
  for (const char* const name :
       {"name", "refusal", "annotations", "audio", "tool_calls", "tool_call_id", "function_call"}) {
    RefuseIfSaid(fields, name);
  }
  body.Keep(fields.Finish());
}

}  // namespace

void ReadChat(Fields& body, v1::ChatPrompt& chat) {
  const json* const messages = body.Any("messages");
  if (messages == nullptr) {
    body.Refuse("messages", "is missing");
  } else if (!messages->is_array()) {
    body.RefuseValue("messages", *messages, "a list");
  } else {
    for (size_t i = 0; i < messages->size(); ++i) {
      ReadMessage((*messages)[i], absl::StrFormat("messages[%d]", i), body, *chat.add_messages());
    }
  }
  if (auto v = body.Text("chat_template")) chat.set_template_(*std::move(v));
  if (const auto v = body.Flag("add_generation_prompt")) chat.set_add_generation_prompt(*v);
  if (const json* const value = body.Any("chat_template_kwargs"); value != nullptr) {
    Fields fields(*value, "chat_template_kwargs");
    if (const auto v = fields.Flag("enable_thinking")) chat.set_enable_thinking(*v);
    body.Keep(fields.Finish());
  }
  for (const char* const name :
       {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}) {
    RefuseIfSaid(body, name);
  }
  if (const json* const value = body.Any("response_format"); value != nullptr) {
    Fields fields(*value, "response_format");
    if (const std::string type = fields.Text("type").value_or(""); type != "text") {
      fields.Refuse("type", absl::StrFormat("\"%s\" is not supported, only text is", type));
    }
    body.Keep(fields.Finish());
  }
}

}  // namespace palimpsest::inference
