#include "tools/launch/slurm_place.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/launch/child_process.h"

namespace palimpsest::tools {
namespace {

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The names of the nodes that the job has now; none when Slurm does not answer. `job` is a number.
std::vector<std::string> NodesOf(const std::string& job) {
  const std::string command = absl::StrFormat(
      "scontrol show hostnames \"$(squeue --noheader --jobs=%s --format=%%N)\"", job);
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::string text;
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    text.append(buffer.data(), n);
  }
  pclose(pipe);
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

}  // namespace

absl::StatusOr<std::unique_ptr<SlurmPlace>> SlurmPlace::OfThisJob() {
  const std::string job = Environment("SLURM_JOB_ID");
  int64_t number = 0;
  if (!absl::SimpleAtoi(job, &number)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "SLURM_JOB_ID=\"%s\": --slurm works inside of a job only; see deploy/slurm/run.sbatch",
        job));
  }
  std::vector<std::string> nodes = NodesOf(job);
  if (nodes.empty()) {
    return absl::UnavailableError(
        absl::StrFormat("SLURM_JOB_ID=%s: squeue and scontrol name no nodes of this job", job));
  }
  return std::make_unique<SlurmPlace>(job, std::move(nodes));
}

std::vector<std::string> SlurmPlace::Command(const DaemonSpec& daemon) const {
  // Unset: what the whole job asked for, which srun would take for the wish of this step.
  std::vector<std::string> command = {"/usr/bin/env",
                                      "--unset=SLURM_GPUS",
                                      "--unset=SLURM_GPUS_PER_TASK",
                                      "--unset=SLURM_GPUS_PER_SOCKET",
                                      "srun",
                                      "--nodes=1",
                                      "--ntasks=1",
                                      "--nodelist=" + nodes_[static_cast<size_t>(daemon.node)],
                                      "--job-name=" + daemon.name,
                                      "--input=none",
                                      "--mpi=none",
                                      "--mem=0"};
  if (daemon.cpus > 0 || daemon.gpus > 0) {
    command.push_back("--exact");
    command.push_back(absl::StrFormat("--cpus-per-task=%d", std::max(daemon.cpus, 1)));
  } else {
    command.push_back("--overlap");
  }
  // Also as 0: it overrides SLURM_GPUS_PER_NODE of the job, which --gres=none does not (22.05).
  command.push_back(absl::StrFormat("--gpus-per-node=%d", daemon.gpus));
  command.insert(command.end(), daemon.argv.begin(), daemon.argv.end());
  return command;
}

std::vector<std::string> SlurmPlace::OnEachNode(const std::vector<std::string>& argv) const {
  std::vector<std::string> command = {"/usr/bin/env",
                                      "srun",
                                      absl::StrFormat("--nodes=%d", nodes_.size()),
                                      absl::StrFormat("--ntasks=%d", nodes_.size()),
                                      "--ntasks-per-node=1",
                                      "--overlap",
                                      "--input=none",
                                      "--mpi=none",
                                      "--mem=0"};
  command.insert(command.end(), argv.begin(), argv.end());
  return command;
}

bool SlurmPlace::Stands(const DaemonSpec& daemon) const {
  const std::vector<std::string> now = NodesOf(job_);
  const std::string& node = nodes_[static_cast<size_t>(daemon.node)];
  return now.empty() || std::find(now.begin(), now.end(), node) != now.end();
}

int SlurmPlace::restarts() const {
  int restarts = 0;
  return absl::SimpleAtoi(Environment("SLURM_RESTART_COUNT"), &restarts) ? restarts : 0;
}

absl::Status SlurmPlace::Requeue() const {
  ASSIGN_OR_RETURN(ChildProcess scontrol,
                   ChildProcess::Start({"/usr/bin/env", "scontrol", "requeue", job_}, ""));
  const Ending ended = scontrol.Wait();
  if (ended.ok()) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "scontrol requeue %s: %s; was the job submitted with --requeue?", job_, ended.Text()));
}

}  // namespace palimpsest::tools
