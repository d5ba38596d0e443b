#include "common/rpc/daemon.h"

#include <string>

#include "absl/strings/cord.h"
#include "common/telemetry/log.h"

namespace palimpsest {
namespace {

// Travels with a status from OfStart to FinishRun; its content means nothing.
constexpr char kFailsAgain[] = "palimpsest/fails-again";

}  // namespace

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
  return status.GetPayload(kFailsAgain).has_value() ? kExitFailsAgain : kExitFailed;
}

absl::Status OfStart(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
      status.SetPayload(kFailsAgain, absl::Cord());
      return status;
    default:
      return status;
  }
}

}  // namespace palimpsest
