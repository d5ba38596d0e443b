#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "tools/doctor/finding.h"
#include "tools/doctor/meeting.h"
#include "tools/doctor/needs.h"

// What was measured against what the run asks for. Pure: the measuring stands in probe.h.
namespace palimpsest::tools {

struct Space {
  int64_t bytes = 0;   // free for us
  int64_t inodes = 0;  // free; INT64_MAX where the file system does not count them
};
Finding JudgeSpace(int64_t needed_bytes, const Space& space);
Finding JudgeInodes(const Space& space);

struct Machine {
  int64_t open_files = 0;    // soft limits, INT64_MAX for none
  int64_t processes = 0;     // threads too
  int64_t memory_bytes = 0;  // free or reclaimable, within the limit of our cgroup
  int64_t cores = 0;         // that we may run on
};
Finding JudgeOpenFiles(const Machine& machine);
Finding JudgeProcesses(const Machine& machine);
Finding JudgeMemory(int64_t needed_bytes, const Machine& machine);
Finding JudgeCores(const RunNeeds& needs, const Machine& machine);
// What placement gives to daemons of this node as their own, against what the job has there.
Finding JudgeCpus(const RunNeeds& needs);

// At a stop running rollouts get orchestrator.drain_grace, and the orchestrator is killed when its
// share of placement.stop_grace is over.
Finding JudgeStop(const RunNeeds& needs);

// `file`: when the run's file system says that a file was written which was written at `now`.
// Leases in the store are compared between machines: `lease` bounds the difference.
Finding JudgeClock(absl::Time now, absl::Time file, absl::Duration lease);

// Another node: three findings, "network", "clock" and "visibility" with its name, or the first
// alone when it cannot be reached.
std::vector<Finding> JudgeAcquaintance(const Acquaintance& seen, absl::Duration lease);

// `names` of devices, `driver` and `nccl` as they say it; empty where there is none. `problem`:
// what nvidia-smi said in place of that, where there are devices.
struct Gpus {
  std::vector<std::string> names;
  std::string driver, nccl, problem;
};
std::vector<Finding> JudgeGpus(const RunNeeds& needs, const Gpus& gpus);

}  // namespace palimpsest::tools
