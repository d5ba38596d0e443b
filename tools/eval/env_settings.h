#pragma once

#include <string>
#include <vector>

#include "tools/eval/plan.h"

namespace palimpsest::tools::eval {

// What answers depend on in the `env` section of a YAML file with `sets` ("env.KEY=VALUE") over it:
// the options of tasks and the module and options of workers, by key as they are written. Where a
// value names a file, the digest of its contents stands under "KEY (contents)".
absl::StatusOr<Settings> EnvSettings(const std::string& config,
                                     const std::vector<std::string>& sets);

}  // namespace palimpsest::tools::eval
