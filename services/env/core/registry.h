#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/env/core/countdown.h"
#include "services/env/core/environment.h"
#include "services/env/core/registers.h"
#include "services/env/core/tally.h"

namespace palimpsest::env {

// The options of every task, one field per task, so that a config can set them.
struct EnvironmentOptions {
  RegistersOptions registers;
  CountdownOptions countdown;
  TallyOptions tally;
  bool operator==(const EnvironmentOptions&) const = default;
};

using EnvironmentMap = std::map<std::string, std::unique_ptr<const Environment>, std::less<>>;

// Every task of this build, by its name. A new task is one line here.
absl::StatusOr<EnvironmentMap> BuiltInEnvironments(const EnvironmentOptions& options);

// kNotFound, naming the tasks that there are. The pointer lives as long as the map.
absl::StatusOr<const Environment*> FindEnvironment(const EnvironmentMap& environments,
                                                   std::string_view task);

}  // namespace palimpsest::env
