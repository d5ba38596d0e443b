#include "services/inference/http/ask.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "services/inference/http/ask_fields.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

constexpr int32_t kCompletionTokens = 16;  // what OpenAI generates when not told how much
constexpr size_t kMaxPrompts = 1024;
constexpr size_t kMaxTogether = 64 << 20;  // bytes: each prompt has a copy of all the rest

absl::StatusOr<json> ParseBody(std::string_view body) {
  json parsed = json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError("body: is not JSON");
  return parsed;
}

bool IsListOf(const json& value, bool (*is)(const json&)) {
  return value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), is);
}
bool IsText(const json& value) { return value.is_string(); }
bool IsId(const json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= INT32_MAX;
}
bool IsIds(const json& value) { return IsListOf(value, IsId); }

void SetPrompt(const json& prompt, v1::GenerateRequest& request) {
  if (prompt.is_string()) return request.set_prompt_text(prompt.get<std::string>());
  for (const json& id : prompt) request.mutable_prompt_ids()->add_ids(id.get<int32_t>());
}

// A text, a list of texts, ids, or a list of lists of ids.
std::vector<json> ReadPrompts(Fields& body) {
  const json* const prompt = body.Any("prompt");
  if (prompt == nullptr) {
    body.Refuse("prompt", "is missing");
  } else if (IsText(*prompt) || IsIds(*prompt)) {
    return std::vector<json>(1, *prompt);
  } else if (IsListOf(*prompt, IsText) || IsListOf(*prompt, IsIds)) {
    return prompt->get<std::vector<json>>();
  } else {
    body.RefuseValue("prompt", *prompt, "a text, a list of texts, ids or a list of lists of ids");
  }
  return {};
}

absl::Status AddPrompts(const std::vector<json>& prompts, const v1::GenerateRequest& request,
                        Ask& ask) {
  if (prompts.size() > kMaxPrompts || static_cast<int64_t>(prompts.size()) * ask.n > INT32_MAX ||
      prompts.size() * request.ByteSizeLong() > kMaxTogether) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "prompt: %d of them with n=%d are too much for one request", prompts.size(), ask.n));
  }
  for (const json& prompt : prompts) {
    v1::GenerateRequest& one = ask.prompts.emplace_back(request);
    one.set_first_sample(static_cast<int32_t>(ask.prompts.size() - 1) * ask.n);
    SetPrompt(prompt, one);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Ask> ParseCompletion(std::string_view text, uint64_t fresh_seed) {
  ASSIGN_OR_RETURN(const json parsed, ParseBody(text));
  Fields body(parsed, "");
  Ask ask;
  v1::GenerateRequest request;
  ReadCommon(body, fresh_seed, ask, request);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_max_tokens(body.Whole("max_tokens").value_or(kCompletionTokens));
  if (const auto v = body.Whole("logprobs")) {
    ask.logprobs = true;
    sampling.set_top_logprobs(*v);
  }
  ask.echo = body.Flag("echo").value_or(false);
  if (ask.echo && ask.logprobs) body.Refuse("echo", "not supported together with logprobs");
  if (const auto v = body.Whole("best_of"); v && *v != ask.n) {
    body.Refuse("best_of",
                absl::StrFormat("%d differs from n=%d, which is not supported", *v, ask.n));
  }
  if (body.Text("suffix")) body.Refuse("suffix", "not supported by this server");
  const std::vector<json> prompts = ReadPrompts(body);
  RETURN_IF_ERROR(body.Finish());
  request.set_stream_tokens(ask.stream || ask.logprobs);
  RETURN_IF_ERROR(AddPrompts(prompts, request, ask));
  return ask;
}

absl::StatusOr<Ask> ParseChat(std::string_view text, uint64_t fresh_seed) {
  ASSIGN_OR_RETURN(const json parsed, ParseBody(text));
  Fields body(parsed, "");
  Ask ask{.chat = true};
  v1::GenerateRequest request;
  ReadCommon(body, fresh_seed, ask, request);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  const auto older = body.Whole("max_tokens"), newer = body.Whole("max_completion_tokens");
  if (older && newer && *older != *newer) {
    body.Refuse("max_completion_tokens", absl::StrFormat("%d, but max_tokens=%d", *newer, *older));
  }
  if (older || newer) sampling.set_max_tokens(newer ? *newer : *older);
  ask.logprobs = body.Flag("logprobs").value_or(false);
  const auto top = body.Whole("top_logprobs");
  if (top && !ask.logprobs) body.Refuse("top_logprobs", "only with logprobs: true");
  if (top) sampling.set_top_logprobs(*top);
  ReadChat(body, *request.mutable_prompt_chat());
  RETURN_IF_ERROR(body.Finish());
  request.set_stream_tokens(ask.stream || ask.logprobs);
  ask.prompts.push_back(std::move(request));
  return ask;
}

}  // namespace palimpsest::inference
