#include "common/rpc/daemon.h"

#include <string>

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
  Log(Severity::kError, "daemon failed", {{"daemon", name}, {"status", status.ToString()}});
  return kExitFailed;
}

}  // namespace palimpsest
