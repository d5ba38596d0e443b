#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/config/node.h"
#include "common/config/run_sections.h"
#include "common/rpc/config.h"
#include "common/tls/section.h"
#include "tools/launch/placement.h"

namespace palimpsest::tools {

// Those of kRoles that have a daemon, in their order.
std::vector<std::string> RolesOf(const PlacementSection& placement);

struct ListenPlace {
  std::string key;  // "trainer.listen"
  HostPort at;
  int64_t daemons = 1;  // on this machine, that would all listen there
};

// What a run asks of its machine, as its daemons understand the configuration.
struct RunNeeds {
  RunSection run;
  ModelSection model;
  int64_t keep_versions = 0;
  int64_t keep_checkpoints = 0;
  int64_t kv_pool_bytes = 0;
  int64_t inference_threads = 0;
  int64_t trainer_threads = 0;
  int64_t ranks = 1;        // of the trainer, on this machine
  int64_t slices = 1;       // that the weights are cut into, one for each rank of the run; 1: whole
  int64_t replicas = 1;     // of inference, on this machine
  int64_t gpus = 0;         // that placement gives to daemons on this machine
  int64_t cpus = 0;         // likewise, each its own; one for a daemon that has only gpus
  int64_t cpus_of_job = 0;  // that the Slurm job has on this machine; 0: not told
  bool reference = false;   // each rank holds a reference model besides
  TlsSection tls;
  bool router = false;              // an inference daemon that routes is among the run's
  absl::Duration lease;             // of a version that a replica serves
  absl::Duration stop_grace;        // of placement
  absl::Duration drain_grace;       // the orchestrator's
  std::vector<ListenPlace> places;  // with a port of their own; "a free one" is none
};

// `printed`: what the daemon of each of RolesOf says to --print-config, by role. `node`: this one's
// number in the job of several, for which only what placement puts there counts; nullopt: all of
// it. INVALID_ARGUMENT names what is missing there.
absl::StatusOr<RunNeeds> NeedsOf(const std::map<std::string, Node>& printed,
                                 const PlacementSection& placement = {},
                                 std::optional<int> node = std::nullopt);

struct ParameterCount {
  int64_t all = 0;
  int64_t sliced = 0;  // of these, what ranks may hold slices of: all but the last norm
};

// Of the model that the run starts from: counted in its folder, or as model.init says. NOT_FOUND
// and DATA_LOSS are about model.folder.
absl::StatusOr<ParameterCount> ParametersOf(const ModelSection& model);

// Most bytes that store and checkpoints hold at once, one of each still being written. fp32: a
// version has 4 bytes a parameter, a checkpoint the two moments of AdamW besides.
int64_t DiskBytes(const RunNeeds& needs, int64_t parameters);

// Of the trainer's ranks (weights and gradients each, or its slice of them; a reference model
// where there is one; together two moments, and a copy of these and the weights while a checkpoint
// is written) and the replicas of inference (weights, KV pool) before the first row.
int64_t MemoryBytes(const RunNeeds& needs, const ParameterCount& parameters);

}  // namespace palimpsest::tools
