#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/child_process.h"

namespace palimpsest::tools {

struct DaemonSpec {
  std::string name;               // "trainer-0"
  std::vector<std::string> argv;  // argv[0]: path of the program
  std::string log_file;
  bool leads = false;  // the run is over when this one ends well
};

struct RestartLimits {
  int per_daemon = 3;                               // restarts, over the whole run
  absl::Duration first_backoff = absl::Seconds(1);  // doubles with each restart of the daemon
  absl::Duration stop_grace = absl::Seconds(30);    // from SIGTERM to SIGKILL
};

// What became of a run.
struct RunEnding {
  int exit_code = 0;    // as RunLaunch says
  std::string failure;  // whose it was and how it ended; empty when all went well
  int restarts = 0;     // of all daemons
};

// Keeps the daemons alive until the leading one ends with code 0, one dies more often than the
// limits allow, one refuses its configuration (exit code 2), or `stop` is raised; then stops them
// all, the leading one first. `say` gets one line for each thing that happens. Polls ten times a
// second on the calling thread.
RunEnding Supervise(const std::vector<DaemonSpec>& daemons, const RestartLimits& limits,
                    const StopSignal& stop, Clock& clock,
                    const std::function<void(const std::string&)>& say);

}  // namespace palimpsest::tools
