#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "tools/launch/daemon_spec.h"

namespace palimpsest::tools {

// Where the daemons of a run live. A daemon is held by a local process, its command, which ends as
// the daemon ends.
class Place {
 public:
  virtual ~Place() = default;
  virtual std::vector<std::string> Command(const DaemonSpec& daemon) const = 0;
  // The signal to the command that asks the daemon to stop, and the one that ends both at once.
  virtual int stop_signal() const = 0;
  virtual int kill_signal() const = 0;
  // False once the machine of this daemon is lost to the run. Asked when a daemon has died.
  virtual bool Stands(const DaemonSpec& daemon) const = 0;
};

// This machine: the command is the daemon.
class LocalPlace final : public Place {
 public:
  std::vector<std::string> Command(const DaemonSpec& daemon) const override { return daemon.argv; }
  int stop_signal() const override { return SIGTERM; }
  int kill_signal() const override { return SIGKILL; }
  bool Stands(const DaemonSpec&) const override { return true; }
};

}  // namespace palimpsest::tools
