#pragma once

#include "absl/time/time.h"

namespace palimpsest {

// Turns SIGTERM, SIGINT and SIGUSR1 (Slurm's warning, and what srun hands on) into something a
// thread can wait for; SIGPIPE is ignored meanwhile. At most one lives at a time, made before other
// threads start. Any thread may wait; once stopped it stays so.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();  // puts the former handlers back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // True as soon as a stop was asked for; false after `timeout` without one.
  bool WaitFor(absl::Duration timeout) const;
  bool Requested() const { return WaitFor(absl::ZeroDuration()); }
  // Blocks until then.
  void Wait() const;

  // Asks for a stop from inside of the process.
  void Request();

  // The signal that came first; 0 without one.
  int signal() const;
};

}  // namespace palimpsest
