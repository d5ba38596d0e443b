#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/config/binder.h"

namespace palimpsest::tools {

// How many daemons of one role there are, and where each runs. `nodes`, `cpus` and `gpus` are for a
// Slurm job alone.
struct RolePlacement {
  int32_t replicas = 1;
  int32_t ranks = 1;                 // of the trainer: processes that train one model together
  std::vector<int32_t> nodes = {0};  // replica or rank i runs on nodes[i mod size], of the job
  int32_t cpus = 0;                  // of each replica, its own; 0: all of the job's on the node
  int32_t gpus = 0;                  // of each replica, its own
  bool operator==(const RolePlacement&) const = default;

  int32_t processes() const { return replicas * ranks; }  // one of the two is 1
};

// `placement:` of the YAML, read by `palimpsest launch` alone.
struct PlacementSection {
  RolePlacement env, trainer, inference, orchestrator;
  RolePlacement router{.replicas = 0};  // 1: the replicas of inference have one address besides
  absl::Duration stop_grace = absl::Seconds(30);  // from the request to stop to the kill
  bool operator==(const PlacementSection&) const = default;

  // That of one of kRoles.
  const RolePlacement& Of(std::string_view role) const;
};
void Bind(Binder& b, PlacementSection& c);
absl::Status Validate(const PlacementSection& c);

// `node_count`: nodes of the job. INVALID_ARGUMENT names the key that points beyond them.
absl::Status ValidateNodes(const PlacementSection& c, size_t node_count);

// On one machine: INVALID_ARGUMENT names the first key that only a Slurm job can keep.
absl::Status ValidateWithoutSlurm(const PlacementSection& c);

// The roles in the order in which they are started.
inline constexpr std::string_view kRoles[] = {"env", "trainer", "inference", "router",
                                              "orchestrator"};

}  // namespace palimpsest::tools
