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
             const std::function<void(const std::string&)>& say)
      : limits_(limits), place_(place), clock_(clock), say_(say) {}

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
    const std::optional<Ending> ended = daemon.process->Poll();
    if (!ended) return;
    daemon.process.reset();
    // First of all: srun may end with 0 when the node of its task fails.
    if (!place_.Stands(daemon.spec)) {
      Lose(daemon, ended->Text() + ", its node is lost", kExitLater);
    } else if (daemon.spec.leads && ended->ok()) {
      ending_ = RunEnding{};
    } else if (ended->code == kExitUsage) {
      Fail(daemon, kExitUsage, ended->Text() + ", it refuses its configuration");
    } else if (ended->code == kExitFailsAgain) {
      Lose(daemon, ended->Text() + ", another start would end the same way", kExitFailsAgain);
    } else if (daemon.restarts >= limits_.per_daemon) {
      Lose(daemon, absl::StrFormat("%s, after %d restarts", ended->Text(), daemon.restarts),
           daemon.spec.leads && ended->signal == 0 ? ended->code : kExitFailed);
    } else {
      const absl::Duration wait = limits_.first_backoff * (1 << daemon.restarts);
      ++daemon.restarts;
      daemon.start_at = clock_.Now() + wait;
      say_(absl::StrFormat("%s ended: %s; restart %d of %d in %s", daemon.spec.name, ended->Text(),
                           daemon.restarts, limits_.per_daemon, absl::FormatDuration(wait)));
    }
    // What a signal killed (128 + n, as srun tells it) has said nothing: the end of its log is
    // older.
    const bool spoke = ended->signal == 0 && ended->code < 128;
    if (ending_ && !ending_->failure.empty() && spoke) {
      ending_->cause = LastWords(daemon.spec.log_file);
    }
  }

  // The run goes on without a replica, or ends with `exit_code`.
  void Lose(Daemon& daemon, const std::string& how, int exit_code) {
    const bool others = std::any_of(daemons_.begin(), daemons_.end(), [&](const Daemon& other) {
      return &other != &daemon && !other.lost && other.spec.role == daemon.spec.role;
    });
    if (daemon.spec.role.empty() || !others) return Fail(daemon, exit_code, how);
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

  // The leading daemon first: it says goodbye to the others while they still answer.
  void StopAll() {
    const absl::Time kill_at = clock_.Now() + limits_.stop_grace;
    for (const bool leads : {true, false}) {
      for (Daemon& daemon : daemons_) {
        if (daemon.spec.leads == leads && daemon.process)
          daemon.process->Signal(place_.stop_signal());
      }
      for (Daemon& daemon : daemons_) {
        if (daemon.spec.leads == leads && daemon.process) AwaitEnd(daemon, kill_at);
      }
    }
  }

  void AwaitEnd(Daemon& daemon, absl::Time kill_at) {
    while (!daemon.process->Poll() && clock_.Now() < kill_at) clock_.SleepFor(kPoll);
    if (!daemon.process->Poll()) {
      say_(absl::StrFormat("%s did not stop within %s and is killed", daemon.spec.name,
                           absl::FormatDuration(limits_.stop_grace)));
      daemon.process->Signal(place_.kill_signal());
    }
    const Ending ended = daemon.process->Wait();
    if (!ended.ok()) say_(absl::StrFormat("%s stopped: %s", daemon.spec.name, ended.Text()));
  }

  const RestartLimits limits_;
  const Place& place_;
  Clock& clock_;
  const std::function<void(const std::string&)>& say_;
  std::vector<Daemon> daemons_;
  std::optional<RunEnding> ending_;
};

}  // namespace

RunEnding Supervise(const std::vector<DaemonSpec>& daemons, const RestartLimits& limits,
                    const Place& place, const StopSignal& stop, Clock& clock,
                    const std::function<void(const std::string&)>& say) {
  return Supervisor(limits, place, clock, say).Run(daemons, stop);
}

}  // namespace palimpsest::tools
