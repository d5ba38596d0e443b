#pragma once

#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// What the parts of a run need around them, in `folder`, which is there.
struct SmallWorkplace {
  SmallWorkplace(RunPlan p, std::string folder, Peers the_peers)
      : plan(std::move(p)), run{"test", std::move(folder), 11, ""}, peers(the_peers) {}

  RunPlan plan;
  RunIdentity run;
  Peers peers;
  std::unique_ptr<Ledger> ledger = Ledger::Open(run.folder + "/ledger.sqlite", "test", 11).value();
  ProgressBoard board;
  absl::Notification stop;
  Metrics registry{"orchestrator", "test", SystemClock()};
  RunMetrics metrics{registry};
  Patience patience{plan.peers, stop, metrics, SystemThreads()};
  WorkerPool workers{2, SystemThreads()};
  std::atomic<bool> paused = false;
  std::atomic<int> in_flight = 0;
  Workplace place{plan,    run,     peers,         *ledger,         board,  patience,
                  metrics, workers, SystemClock(), SystemThreads(), paused, in_flight};
};

}  // namespace palimpsest::orchestrator
