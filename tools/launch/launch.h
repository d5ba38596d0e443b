#pragma once

#include <string>
#include <vector>

namespace palimpsest::tools {

struct LaunchOptions {
  std::string config;             // YAML of the run
  std::vector<std::string> sets;  // a.b=c, handed to every daemon
  bool slurm = false;             // place the daemons on the nodes of this Slurm job
  std::string command;            // what was typed, for the report of the run
};

// Starts the daemons of the run and stays until it is over. Exit code: the run's (that of its
// orchestrator), 1 when a daemon could not be kept alive, 2 for a configuration that a daemon
// refuses, 3 when a daemon says that another start would fail the same way, 75 when it was stopped
// to go on later (SIGUSR1, or a lost node; the Slurm job is then queued again), 128 + n when
// another signal n stopped it. At the end one JSON object on stdout says the outcome. With `slurm`
// a run that has its report is left alone: exit code 0.
int RunLaunch(const LaunchOptions& options);

}  // namespace palimpsest::tools
