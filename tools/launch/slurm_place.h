#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "tools/launch/place.h"

namespace palimpsest::tools {

// The nodes of the Slurm job that this process is part of: each daemon is a step of one task, held
// by its srun. srun hands SIGUSR1 on to the daemon, ends the step at SIGTERM, and ends with the
// daemon's exit code (128 + n when signal n killed it).
class SlurmPlace final : public Place {
 public:
  // FAILED_PRECONDITION outside of a job, UNAVAILABLE when Slurm does not answer.
  static absl::StatusOr<std::unique_ptr<SlurmPlace>> OfThisJob();
  SlurmPlace(std::string job, std::vector<std::string> nodes)
      : job_(std::move(job)), nodes_(std::move(nodes)) {}

  std::vector<std::string> Command(const DaemonSpec& daemon) const override;
  // Runs `argv` once on each node, beside what runs there, with the GPUs of the job.
  std::vector<std::string> OnEachNode(const std::vector<std::string>& argv) const;
  int stop_signal() const override { return SIGUSR1; }
  int kill_signal() const override { return SIGTERM; }
  // A job with --no-kill goes on without a node that fails; Slurm takes it out of the job's list.
  bool Stands(const DaemonSpec& daemon) const override;

  const std::string& job() const { return job_; }
  const std::vector<std::string>& nodes() const { return nodes_; }
  // How often Slurm has started this job again.
  int restarts() const;
  // Puts the job back into the queue; what is left of it here is killed.
  absl::Status Requeue() const;

 private:
  std::string job_;                 // its id
  std::vector<std::string> nodes_;  // their names, in Slurm's order; the batch script runs on [0]
};

}  // namespace palimpsest::tools
