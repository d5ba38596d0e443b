#include "tools/launch/placement.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::tools {
namespace {

absl::Status CheckRole(std::string_view role, const RolePlacement& c) {
  const auto refuse = [&](std::string_view key, int32_t value, const char* what) {
    return absl::InvalidArgumentError(
        absl::StrFormat("placement.%s.%s=%d %s", role, key, value, what));
  };
  const bool many = role == "inference" || role == "env";
  if (role == "router") {
    if (c.replicas < 0 || c.replicas > 1)
      return refuse("replicas", c.replicas, "is neither 0 nor 1");
  } else if (c.replicas < 1) {
    return refuse("replicas", c.replicas, "is below 1");
  } else if (c.replicas > 1 && !many) {
    return refuse("replicas", c.replicas, "is not 1");
  }
  if (c.ranks < 1) return refuse("ranks", c.ranks, "is below 1");
  if (c.ranks > 1 && role != "trainer") return refuse("ranks", c.ranks, "is not 1");
  if (c.cpus < 0) return refuse("cpus", c.cpus, "is negative");
  if (c.gpus < 0) return refuse("gpus", c.gpus, "is negative");
  for (const int32_t node : c.nodes) {
    if (node < 0) return refuse("nodes", node, "is negative");
  }
  if (!c.nodes.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("placement.%s.nodes is empty", role));
}

}  // namespace

void Bind(Binder& b, RolePlacement& c) {
  b.Field("replicas", c.replicas,
          "daemons of this role; one for trainer and orchestrator, 0 or 1 for router");
  b.Field("ranks", c.ranks, "of the trainer: processes that train together; one for others");
  b.Field("nodes", c.nodes,
          "replica or rank i runs on nodes[i mod size], counted in the Slurm job from 0");
  b.Field("cpus", c.cpus, "of each replica, its own; 0: all that the job has on the node");
  b.Field("gpus", c.gpus, "of each replica, its own");
}

void Bind(Binder& b, PlacementSection& c) {
  b.Section("env", c.env);
  b.Section("trainer", c.trainer);
  b.Section("inference", c.inference);
  b.Section("router", c.router);
  b.Section("orchestrator", c.orchestrator);
  b.Field("stop_grace", c.stop_grace, "from the request to stop to the kill");
}

const RolePlacement& PlacementSection::Of(std::string_view role) const {
  if (role == "env") return env;
  if (role == "trainer") return trainer;
  if (role == "router") return router;
  return role == "inference" ? inference : orchestrator;
}

absl::Status Validate(const PlacementSection& c) {
  for (const std::string_view role : kRoles) RETURN_IF_ERROR(CheckRole(role, c.Of(role)));
  if (c.stop_grace > absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("placement.stop_grace=%s is not > 0", absl::FormatDuration(c.stop_grace)));
}

absl::Status ValidateNodes(const PlacementSection& c, size_t node_count) {
  for (const std::string_view role : kRoles) {
    for (const int32_t node : c.Of(role).nodes) {
      if (static_cast<size_t>(node) < node_count) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "placement.%s.nodes=%d: the job has %d nodes, counted from 0", role, node, node_count));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateWithoutSlurm(const PlacementSection& c) {
  for (const std::string_view role : kRoles) {
    const RolePlacement& own = c.Of(role);
    const auto refuse = [&](std::string_view key, int32_t value) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "placement.%s.%s=%d is for a Slurm job, and --slurm is not given", role, key, value));
    };
    for (const int32_t node : own.nodes) {
      if (node != 0) return refuse("nodes", node);
    }
    if (own.cpus != 0) return refuse("cpus", own.cpus);
    if (own.gpus != 0) return refuse("gpus", own.gpus);
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::tools
