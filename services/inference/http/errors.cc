#include "services/inference/http/errors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

// The first that a message begins with is replaced.
constexpr std::pair<std::string_view, std::string_view> kJsonNames[] = {
    {"prompt_chat.enable_thinking", "chat_template_kwargs.enable_thinking"},
    {"prompt_chat.template", "chat_template"},
    {"prompt_chat.", ""},
    {"prompt_chat", "messages"},
    {"prompt_text", "prompt"},
    {"prompt_ids.ids", "prompt"},
    {"sampling.stop_strings", "stop"},
    {"sampling.stop_ids", "stop_token_ids"},
    {"sampling.", ""},
    {"context.kv_budget.", "context."},
    {"context.segments.", "context."},
    {"context.parameters.", "context."},
    {"client", "user"},
};

std::string_view TypeOf(int http_status) {
  if (http_status == 429) return "rate_limit_error";
  return http_status >= 500 ? "server_error" : "invalid_request_error";
}

json ParamOf(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return nullptr;
  const std::string message(status.message());
  const auto end = std::find_if_not(message.begin(), message.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '[' || c == ']';
  });
  return std::string(message.begin(), end);
}

}  // namespace

absl::Status InJsonNames(const absl::Status& status, bool chat) {
  const std::string message(status.message());
  constexpr std::string_view kTop = "sampling.top_logprobs";
  if (!chat && message.starts_with(kTop)) {
    return absl::Status(status.code(), "logprobs" + message.substr(kTop.size()));
  }
  for (const auto& [ours, theirs] : kJsonNames) {
    if (!message.starts_with(ours)) continue;
    return absl::Status(status.code(), std::string(theirs) + message.substr(ours.size()));
  }
  return status;
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:  // a field, not a path; a client must not try again
      return 400;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorBody(const absl::Status& status) {
  const std::string code = absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
  const json body = {{"error",
                      {{"message", std::string(status.message())},
                       {"type", TypeOf(HttpStatusOf(status))},
                       {"param", ParamOf(status)},
                       {"code", code}}}};
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace palimpsest::inference
