#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/place.h"

namespace palimpsest::tools {

// Of stop_grace, what the leading daemon has to itself; the others have the rest at least.
inline constexpr double kLeadersShare = 0.75;

struct RestartLimits {
  int per_daemon = 3;                               // restarts, over the whole run
  absl::Duration first_backoff = absl::Seconds(1);  // doubles with each restart of the daemon
  absl::Duration stop_grace = absl::Seconds(30);    // from SIGTERM to SIGKILL
  absl::Duration team_grace = absl::Seconds(15);    // from the end of one of a team to SIGKILL
};

// Exit code of a run that was stopped before its end, to go on where it was.
inline constexpr int kExitLater = 75;

// What became of a run.
struct RunEnding {
  int exit_code = 0;     // as RunLaunch says
  std::string failure;   // whose it was and how it ended; empty when all went well
  std::string cause;     // what that daemon said of it; empty when it could not, or did not
  std::string log_file;  // of that daemon
  int restarts = 0;      // of all daemons
  std::vector<std::string> lost;  // replicas that the run did without
};

// Keeps the daemons alive in `place` until the leading one ends with code 0, one cannot be kept
// alive (it dies more often than the limits allow, says that another start would fail as well by
// exit code 3, or is lost with its machine), one refuses its configuration (exit code 2), or `stop`
// is raised; then stops them all, the leading one first. Killing what does not stop in time changes
// no exit code: what is durable at any moment is enough to go on from. Once `holds` is not OK the
// run is somebody else's: all are killed at once. A replica that cannot be kept alive is done
// without while another one of its role is left. When one of a team ends, the others get team_grace
// to say whom they miss; all of them then count as one daemon that has died. `say` gets one line
// for each thing that happens. Polls ten times a second on the calling thread.
RunEnding Supervise(const std::vector<DaemonSpec>& daemons, const RestartLimits& limits,
                    const Place& place, const StopSignal& stop, Clock& clock,
                    const std::function<void(const std::string&)>& say,
                    const std::function<absl::Status()>& holds);

}  // namespace palimpsest::tools
