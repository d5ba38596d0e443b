#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "services/orchestrator/daemon_config.h"

namespace palimpsest::orchestrator {

// What makes the numbers of a run, by key ("orchestrator.rl.samples": "8"): tasks, contexts,
// demonstrations, the loop, the held-out prompts. How far, how fast, and what else is measured at
// the end may change from one start to the next, addresses and deadlines too: they are not in it. A
// list is its items, and how many there are.
absl::StatusOr<std::map<std::string, std::string>> Settings(const OrchestratorDaemonConfig& config);

}  // namespace palimpsest::orchestrator
