#include "tools/watch/told_status.h"

#include <nlohmann/json.hpp>
#include <string>

namespace palimpsest::tools {

absl::Status ToldStatus(const std::string& text) {
  for (int code = 1; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto named = static_cast<absl::StatusCode>(code);
    const std::string prefix = absl::StatusCodeToString(named) + ": ";
    if (text.starts_with(prefix)) return absl::Status(named, text.substr(prefix.size()));
  }
  return absl::UnknownError(text);
}

absl::Status StatusOfLine(const std::string& line) {
  const nlohmann::json told = nlohmann::json::parse(line, nullptr, false);
  if (!told.is_object() || !told.contains("status") || !told["status"].is_string()) {
    return absl::UnknownError(line);
  }
  return ToldStatus(told["status"].get<std::string>());
}

}  // namespace palimpsest::tools
