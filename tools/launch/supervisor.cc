#include "tools/launch/supervisor.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>

#include "absl/strings/str_format.h"
#include "common/rpc/daemon.h"
#include "tools/launch/child_process.h"
#include "tools/launch/daemon_log.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);

class Supervisor {
 public:
  Supervisor(const RestartLimits& limits, const Place& place, Clock& clock,
             const std::function<void(const std::string&)>& say,
             const std::function<absl::Status()>& holds)
      : limits_(limits), place_(place), clock_(clock), say_(say), holds_(holds) {}

  RunEnding Run(const std::vector<DaemonSpec>& specs, const StopSignal& stop) {
    for (const DaemonSpec& spec : specs) {
      daemons_.push_back({.spec = spec});
      if (!ending_) StartNow(daemons_.back());
    }
    while (!ending_) {
      if (stop.WaitFor(kPoll)) {
        say_(absl::StrFormat("stopped by signal %d", stop.signal()));
        const bool warned = stop.signal() == SIGUSR1;
        ending_ = RunEnding{.exit_code = warned ? kExitLater : 128 + stop.signal()};
      }
      if (const absl::Status held = holds_(); !ending_ && !held.ok()) {
        KillAll();
        ending_ = RunEnding{.exit_code = kExitFailed, .failure = std::string(held.message())};
      }
      for (Daemon& daemon : daemons_) {
        if (!ending_) Look(daemon);
      }
    }
    StopAll();
    for (const Daemon& daemon : daemons_) {
      ending_->restarts += daemon.restarts;
      if (daemon.lost) ending_->lost.push_back(daemon.spec.name);
    }
    return *ending_;
  }

 private:
  struct Daemon {
    DaemonSpec spec;
    std::optional<ChildProcess> process;
    int restarts = 0;
    absl::Time start_at = absl::InfinitePast();  // while there is no process
    bool lost = false;                           // never started again
  };

  void StartNow(Daemon& daemon) {
    absl::StatusOr<ChildProcess> started =
        ChildProcess::Start(place_.Command(daemon.spec), daemon.spec.log_file);
    if (!started.ok()) {
      Fail(daemon, kExitFailed, std::string(started.status().message()));
      return;
    }
    daemon.process.emplace(*std::move(started));
    say_(absl::StrFormat("%s started, pid %d", daemon.spec.name, daemon.process->pid()));
  }

  void Look(Daemon& daemon) {
    if (!daemon.process) {
      if (!daemon.lost && clock_.Now() >= daemon.start_at) StartNow(daemon);
      return;
    }
    std::optional<Ending> ended = daemon.process->Poll();
    if (!ended) return;
    daemon.process.reset();
    Judge(EndTeam(daemon, *ended), *ended);
  }

  // `daemon` and the rest of its team have ended.
  void Judge(Daemon& daemon, const Ending& ending) {
    Daemon& counter = FirstOfTeam(daemon);
    // First of all: srun may end with 0 when the node of its task fails.
    if (!place_.Stands(daemon.spec)) {
      Lose(daemon, ending.Text() + ", its node is lost", kExitLater);
    } else if (daemon.spec.leads && ending.ok()) {
      ending_ = RunEnding{};
    } else if (ending.code == kExitUsage) {
      Fail(daemon, kExitUsage, ending.Text() + ", it refuses its configuration");
    } else if (ending.code == kExitFailsAgain) {
      Lose(daemon, ending.Text() + ", another start would end the same way", kExitFailsAgain);
    } else if (counter.restarts >= limits_.per_daemon) {
      Lose(daemon, absl::StrFormat("%s, after %d restarts", ending.Text(), counter.restarts),
           daemon.spec.leads && ending.signal == 0 ? ending.code : kExitFailed);
    } else {
      const absl::Duration wait = limits_.first_backoff * (1 << counter.restarts);
      ++counter.restarts;
      for (Daemon& other : daemons_) {
        if (SameTeam(other, daemon)) other.start_at = clock_.Now() + wait;
      }
      say_(absl::StrFormat("%s ended: %s; restart %d of %d%s in %s", daemon.spec.name,
                           ending.Text(), counter.restarts, limits_.per_daemon,
                           daemon.spec.team.empty() ? "" : " of all its ranks",
                           absl::FormatDuration(wait)));
    }
    // What a signal killed (128 + n, as srun tells it) has said nothing: the end of its log is
    // older.
    const bool spoke = ending.signal == 0 && ending.code < 128;
    if (ending_ && !ending_->failure.empty() && spoke) {
      ending_->cause = LastWords(daemon.spec.log_file);
    }
  }

  static bool SameTeam(const Daemon& a, const Daemon& b) {
    return &a == &b || (!a.spec.team.empty() && a.spec.team == b.spec.team);
  }
  Daemon& FirstOfTeam(Daemon& daemon) {
    return *std::find_if(daemons_.begin(), daemons_.end(),
                         [&](const Daemon& other) { return SameTeam(other, daemon); });
  }

  // `first` has ended as `ended` says; those of its team are asked to, and killed later: they may
  // still have to say whom they miss. Returns the daemon whose ending
  // counts: one that says that another start would be no better, else `first`.
  Daemon& EndTeam(Daemon& first, Ending& ended) {
    Daemon* counts = &first;
    const absl::Time kill_at = clock_.Now() + limits_.team_grace;
    for (Daemon& other : daemons_) {
      if (SameTeam(other, first) && other.process) other.process->Signal(place_.stop_signal());
    }
    for (Daemon& other : daemons_) {
      if (!SameTeam(other, first) || !other.process) continue;
      const Ending theirs = AwaitEnd(other, kill_at, limits_.team_grace);
      other.process.reset();
      if (theirs.code == kExitUsage || theirs.code == kExitFailsAgain) {
        counts = &other;
        ended = theirs;
      }
    }
    return *counts;
  }

  // The run goes on without a replica, or ends with `exit_code`.
  void Lose(Daemon& daemon, const std::string& how, int exit_code) {
    const bool others = std::any_of(daemons_.begin(), daemons_.end(), [&](const Daemon& other) {
      return &other != &daemon && !other.lost && other.spec.role == daemon.spec.role;
    });
    if (daemon.spec.role.empty() || !daemon.spec.team.empty() || !others)
      return Fail(daemon, exit_code, how);
    daemon.lost = true;
    if (!daemon.spec.address_file.empty()) unlink(daemon.spec.address_file.c_str());
    say_(absl::StrFormat("%s is lost: %s; the run goes on without it", daemon.spec.name, how));
  }

  void Fail(const Daemon& daemon, int exit_code, const std::string& how) {
    ending_ = RunEnding{.exit_code = exit_code,
                        .failure = absl::StrFormat("%s failed: %s (log: %s)", daemon.spec.name, how,
                                                   daemon.spec.log_file),
                        .log_file = daemon.spec.log_file};
  }

  // The leading daemon first: it says goodbye to the others while they still answer. It has a
  // share of the time, so that a slow one leaves the trainer some to save in.
  void StopAll() {
    const absl::Time stopped_at = clock_.Now();
    for (const bool leads : {true, false}) {
      const absl::Duration grace = limits_.stop_grace * (leads ? kLeadersShare : 1.0);
      for (Daemon& daemon : daemons_) {
        if (daemon.spec.leads == leads && daemon.process)
          daemon.process->Signal(place_.stop_signal());
      }
      for (Daemon& daemon : daemons_) {
        if (daemon.spec.leads == leads && daemon.process)
          AwaitEnd(daemon, stopped_at + grace, grace);
      }
    }
  }

  void KillAll() {
    for (Daemon& daemon : daemons_) {
      if (daemon.process) daemon.process->Signal(place_.kill_signal());
    }
    for (Daemon& daemon : daemons_) {
      if (daemon.process) daemon.process->Wait();
      daemon.process.reset();
    }
  }

  // `grace`: how long that is until `kill_at`.
  Ending AwaitEnd(Daemon& daemon, absl::Time kill_at, absl::Duration grace) {
    while (!daemon.process->Poll() && clock_.Now() < kill_at) clock_.SleepFor(kPoll);
    if (!daemon.process->Poll()) {
      say_(absl::StrFormat("%s did not stop within %s and is killed", daemon.spec.name,
                           absl::FormatDuration(grace)));
      daemon.process->Signal(place_.kill_signal());
    }
    const Ending ended = daemon.process->Wait();
    if (!ended.ok()) say_(absl::StrFormat("%s stopped: %s", daemon.spec.name, ended.Text()));
    return ended;
  }

  const RestartLimits limits_;
  const Place& place_;
  Clock& clock_;
  const std::function<void(const std::string&)>& say_;
  const std::function<absl::Status()>& holds_;
  std::vector<Daemon> daemons_;
  std::optional<RunEnding> ending_;
};

}  // namespace

RunEnding Supervise(const std::vector<DaemonSpec>& daemons, const RestartLimits& limits,
                    const Place& place, const StopSignal& stop, Clock& clock,
                    const std::function<void(const std::string&)>& say,
                    const std::function<absl::Status()>& holds) {
  return Supervisor(limits, place, clock, say, holds).Run(daemons, stop);
}

}  // namespace palimpsest::tools
