#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "common/context/policy.h"

namespace palimpsest::tools {

// The policy that `--context NAME` and any number of `--set context.KEY=VALUE` describe. NAME is
// none, kv_budget, segments or turns. Keys that are unknown or that the named trigger does not have
// are errors, and so is a trigger without the numbers that have no default: budget and window,
// every and window, n_protect_turns. What else is not set keeps the default of
// common/context/policy.h, the chooser that of the method.
absl::StatusOr<context::ContextPolicy> ParseContextPolicy(std::string_view name,
                                                          std::span<const std::string> sets);

}  // namespace palimpsest::tools
