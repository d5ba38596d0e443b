#include "tools/launch/outcome.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/launch/daemon_log.h"
#include "tools/launch/run_folder.h"

namespace palimpsest::tools {
namespace {

constexpr int kLogTail = 15;  // lines shown of a daemon that failed

}  // namespace

std::string OutcomeJson(const RunSection& run, int attempt, const RunEnding& ending,
                        const SlurmPlace* slurm) {
  const std::string report = ReportOf(run.folder);
  nlohmann::json outcome = {{"run", run.name},
                            {"folder", run.folder},
                            {"exit_code", ending.exit_code},
                            {"attempt", attempt},
                            {"restarts", ending.restarts}};
  if (slurm != nullptr) {
    outcome["job"] = {
        {"id", slurm->job()}, {"restart", slurm->restarts()}, {"nodes", slurm->nodes()}};
  }
  if (!ending.lost.empty()) outcome["lost"] = ending.lost;
  if (!ending.failure.empty()) outcome["failure"] = ending.failure;
  if (!ending.cause.empty()) outcome["cause"] = ending.cause;
  if (ending.exit_code == 0 && std::filesystem::exists(report)) outcome["report"] = report;
  return outcome.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string FailureText(const RunEnding& ending) {
  std::string text = ending.failure;
  for (const std::string& line : LastLines(ending.log_file, kLogTail)) text += "\n  | " + line;
  if (!ending.cause.empty()) text += "\n  cause: " + ending.cause;
  return text;
}

}  // namespace palimpsest::tools
