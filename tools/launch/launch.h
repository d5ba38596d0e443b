#pragma once

#include <string>
#include <vector>

namespace palimpsest::tools {

struct LaunchOptions {
  std::string config;             // YAML of the run
  std::vector<std::string> sets;  // a.b=c, handed to every daemon
  std::string command;            // what was typed, for the report of the run
};

// Starts the daemons of the run and stays until it is over. Exit code: the run's (that of its
// orchestrator), 1 when a daemon could not be kept alive, 2 for a configuration that a daemon
// refuses, 3 when a daemon says that another start would fail the same way, 128 + n when signal n
// stopped it. At the end one JSON object on stdout says the outcome.

int RunLaunch(const LaunchOptions& options);

}  // namespace palimpsest::tools
