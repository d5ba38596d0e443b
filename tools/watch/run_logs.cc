#include "tools/watch/run_logs.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_format.h"
#include "tools/launch/daemon_log.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kLines = 200;     // of each log
constexpr size_t kTimeAt = 11;  // of "2026-11-21T12:03:04.."
constexpr size_t kTimeSize = 8;

std::string TextOf(const json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// nullopt for lines of less weight, and for what is no line of our log.
std::optional<std::pair<std::string, std::string>> Warning(const std::string& line) {
  const json entry = json::parse(line, nullptr, false);
  if (!entry.is_object()) return std::nullopt;
  const auto text = [&](const char* key) {
    return entry.contains(key) ? TextOf(entry[key]) : std::string();
  };
  if (text("level") != "warning" && text("level") != "error") return std::nullopt;
  const std::string time = text("time");
  std::string told =
      absl::StrFormat("%s %s: %s", time.size() > kTimeAt ? time.substr(kTimeAt, kTimeSize) : time,
                      text("role"), text("msg"));
  for (const auto& [key, value] : entry.items()) {
    constexpr std::string_view kTold[] = {"time", "level", "role", "run", "msg"};
    if (std::find(std::begin(kTold), std::end(kTold), key) != std::end(kTold)) continue;
    told += absl::StrFormat(" %s=%s", key, TextOf(value));
  }
  return std::pair(time, told);
}

}  // namespace

std::vector<std::string> LastWarnings(const std::string& run_folder, size_t count) {
  std::multimap<std::string, std::string> by_time;
  std::error_code error;
  for (const fs::directory_entry& log :
       fs::directory_iterator(run_folder + "/logs/latest", error)) {
    for (const std::string& line : LastLines(log.path().string(), kLines)) {
      if (const auto warning = Warning(line); warning.has_value()) by_time.insert(*warning);
    }
  }
  std::vector<std::string> last;
  for (auto it = by_time.rbegin(); it != by_time.rend() && last.size() < count; ++it) {
    last.push_back(it->second);
  }
  std::reverse(last.begin(), last.end());
  return last;
}

}  // namespace palimpsest::tools
