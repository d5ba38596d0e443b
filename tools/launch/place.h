#pragma once

#include <csignal>
#include <string>
#include <vector>

namespace palimpsest::tools {

// One daemon of a run.
struct DaemonSpec {
  std::string name;               // "trainer-0"
  std::vector<std::string> argv;  // argv[0]: path of the program
  std::string log_file;
  bool leads = false;  // the run is over when this one ends well
  std::string role;    // of its replicas, each is dispensable while another one is left
  // Removed when the daemon is lost for good, so that nobody waits for it. Empty: none.
  std::string address_file;
  int node = 0;  // index into the nodes of the place
  int cpus = 0;  // its own; 0: shares them
  int gpus = 0;
};

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
