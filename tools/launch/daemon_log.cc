#include "tools/launch/daemon_log.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/rpc/daemon.h"

namespace palimpsest::tools {
namespace {

constexpr std::streamoff kTail = 64 << 10;  // bytes that are read
constexpr int kLookBack = 15;               // lines, for one of the daemon's own

bool IsOfSlurm(const std::string& line) {
  return line.starts_with("srun: ") || line.starts_with("slurmstepd: ");
}

}  // namespace

std::vector<std::string> LastLines(const std::string& log_file, int count) {
  std::ifstream log(log_file, std::ios::binary);
  log.seekg(0, std::ios::end);
  const std::streamoff size = log.tellg();
  std::string line;
  log.seekg(std::max<std::streamoff>(0, size - kTail));
  if (size > kTail) std::getline(log, line);  // the end of one that began before
  std::vector<std::string> lines;
  while (std::getline(log, line)) lines.push_back(line);
  if (lines.size() > static_cast<size_t>(count)) lines.erase(lines.begin(), lines.end() - count);
  return lines;
}

std::string LastWords(const std::string& log_file) {
  std::vector<std::string> lines = LastLines(log_file, kLookBack);
  while (!lines.empty() && IsOfSlurm(lines.back())) lines.pop_back();
  if (lines.empty()) return "";
  const auto line = nlohmann::json::parse(lines.back(), nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return lines.back();
  const auto text = [&line](const char* key) {
    const auto found = line.find(key);
    return found != line.end() && found->is_string() ? found->get<std::string>() : "";
  };
  return text("msg") == kFailedLine ? text("status") : "";
}

}  // namespace palimpsest::tools
