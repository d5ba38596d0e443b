#include "common/rpc/daemon.h"

#include <string>
#include <utility>

#include "common/base/fails_again.h"
#include "common/telemetry/log.h"

namespace palimpsest {
std::string_view Version() { return PALIMPSEST_VERSION; }

int UsageError(std::string_view name, const absl::Status& status) {
  std::fprintf(stderr, "%s: %s\n", std::string(name).c_str(),
               std::string(status.message()).c_str());
  return kExitUsage;
}

int FinishRun(std::string_view name, const absl::Status& status) {
  if (status.ok()) return kExitOk;
  Log(Severity::kError, kFailedLine,
      {{"daemon", name}, {"status", status.ToString(absl::StatusToStringMode::kWithNoExtraData)}});
  return FailsAgain(status) ? kExitFailsAgain : kExitFailed;
}

absl::Status OfStart(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
      return MarkFailsAgain(std::move(status));
    default:
      return status;
  }
}

}  // namespace palimpsest
