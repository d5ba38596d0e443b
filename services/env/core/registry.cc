#include "services/env/core/registry.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::env {

absl::StatusOr<EnvironmentMap> BuiltInEnvironments(const EnvironmentOptions& options) {
  EnvironmentMap environments;
  ASSIGN_OR_RETURN(environments["countdown"], MakeCountdown(options.countdown));
  ASSIGN_OR_RETURN(environments["registers"], MakeRegisters(options.registers));
  ASSIGN_OR_RETURN(environments["tally"], MakeTally(options.tally));
  return environments;
}

absl::StatusOr<const Environment*> FindEnvironment(const EnvironmentMap& environments,
                                                   std::string_view task) {
  if (const auto found = environments.find(task); found != environments.end()) {
    return found->second.get();
  }
  std::string known;
  for (const auto& [name, unused] : environments) known += (known.empty() ? "" : ", ") + name;
  return absl::NotFoundError(
      absl::StrFormat("task=\"%s\" is unknown; there are: %s", Quoted(task), known));
}

}  // namespace palimpsest::env
