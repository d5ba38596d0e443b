#include "tools/launch/outcome.h"

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "tools/launch/daemon_log.h"

namespace palimpsest::tools {
namespace {

constexpr int kLogTail = 15;  // lines shown of a daemon that failed

}  // namespace

std::string OutcomeJson(const RunSection& run, const RunEnding& ending) {
  const std::string report = run.folder + "/report/report.json";
  nlohmann::json outcome = {{"run", run.name},
                            {"folder", run.folder},
                            {"exit_code", ending.exit_code},
                            {"restarts", ending.restarts}};
  if (!ending.failure.empty()) outcome["failure"] = ending.failure;
  if (!ending.cause.empty()) outcome["cause"] = ending.cause;
  if (ending.exit_code == 0 && std::filesystem::exists(report)) outcome["report"] = report;
  return outcome.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void TellFailure(const std::string& command, const RunEnding& ending) {
  if (ending.failure.empty()) return;
  std::cerr << command << ": " << ending.failure << '\n';
  for (const std::string& line : LastLines(ending.log_file, kLogTail)) {
    std::cerr << "  | " << line << '\n';
  }
  if (!ending.cause.empty()) std::cerr << command << ": " << ending.cause << '\n';
  std::cerr.flush();
}

}  // namespace palimpsest::tools
