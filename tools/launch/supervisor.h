#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/daemon_spec.h"

namespace palimpsest::tools {

struct RestartLimits {
  int per_daemon = 3;                               // restarts, over the whole run
  absl::Duration first_backoff = absl::Seconds(1);  // doubles with each restart of the daemon
  absl::Duration stop_grace = absl::Seconds(30);    // from SIGTERM to SIGKILL
};

// What became of a run.
struct RunEnding {
  int exit_code = 0;     // as RunLaunch says
  std::string failure;   // whose it was and how it ended; empty when all went well
  std::string cause;     // what that daemon said of it; empty when it could not, or did not
  std::string log_file;  // of that daemon
  int restarts = 0;      // of all daemons
};

// Keeps the daemons alive until the leading one ends with code 0, one dies more often than the
// limits allow, one refuses its configuration (exit code 2) or says that another start would fail
// as well (3), or `stop` is raised; then stops them all, the leading one first. `say` gets one line
// for each thing that happens. Polls ten times a second on the calling thread.
RunEnding Supervise(const std::vector<DaemonSpec>& daemons, const RestartLimits& limits,
                    const StopSignal& stop, Clock& clock,
                    const std::function<void(const std::string&)>& say);

}  // namespace palimpsest::tools
