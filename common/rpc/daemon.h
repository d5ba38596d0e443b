#pragma once

#include <cstdio>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config/flags.h"
#include "common/rpc/stop_signal.h"

namespace palimpsest {

// The version of this build, as in build_info.
std::string_view Version();

// How a daemon ends: 0 done or stopped, 1 failed while running, 2 wrong flags or config, 3 failed
// in a way that the next start would meet again.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitFailsAgain = 3;

// The log line with which a daemon fails; its `status` is the reason.
inline constexpr char kFailedLine[] = "daemon failed";

// Prints the error and gives the exit code for it.
int UsageError(std::string_view name, const absl::Status& status);
int FinishRun(std::string_view name, const absl::Status& status);

// Puts around the result of a step of a daemon's start. An error that lies in the configuration or
// on the disk (INVALID_ARGUMENT, FAILED_PRECONDITION, NOT_FOUND, UNIMPLEMENTED: a model folder that
// is not there, a ledger of another seed) then ends the daemon with kExitFailsAgain. Others, a
// taken port for one, may pass. Not for answers of peers: what they refuse may change. See also
// common/base/fails_again.h.
absl::Status OfStart(absl::Status status);
template <class T>
absl::StatusOr<T> OfStart(absl::StatusOr<T> result) {
  if (result.ok()) return result;
  return OfStart(result.status());
}

// The main of every daemon. `Config` has a Bind that names its top-level sections, and a Validate.
// `run` works until it is done or `stop` is raised. `folder` is what --check-config looks at
// besides: what a start would refuse because of what stands on the disk.
//   int main(int argc, char** argv) {
//     return DaemonMain<TrainerDaemonConfig>(argc, argv, "palimpsest-trainer", kSections, Run);
//   }
template <class Config>
int DaemonMain(int argc, const char* const* argv, std::string_view name,
               const std::vector<std::string_view>& known_sections,
               const std::function<absl::Status(const Config&, StopSignal&)>& run,
               const std::function<absl::Status(const Config&)>& folder = nullptr) {
  const absl::StatusOr<ParsedFlags> flags = ParseDaemonFlags(argc, argv);
  if (!flags.ok()) return UsageError(name, flags.status());
  if (flags->action == DaemonAction::kHelp) {
    std::fputs(DaemonHelp(name).c_str(), stdout);
    return kExitOk;
  }
  if (flags->action == DaemonAction::kVersion) {
    std::printf("%s %s\n", std::string(name).c_str(), std::string(Version()).c_str());
    return kExitOk;
  }
  Config config;
  absl::Status status = LoadConfig(*flags, known_sections, config);
  if (!status.ok()) return UsageError(name, status);
  if (flags->action == DaemonAction::kPrintConfig) {
    std::fputs(PrintConfig(config).c_str(), stdout);
    return kExitOk;
  }
  status = WithPlace(Validate(config), *flags);
  if (!status.ok()) return UsageError(name, status);
  if (flags->action == DaemonAction::kCheckConfig) {
    status = folder ? folder(config) : absl::OkStatus();
    return status.ok() ? kExitOk : UsageError(name, status);
  }
  StopSignal stop;
  return FinishRun(name, run(config, stop));
}

}  // namespace palimpsest
