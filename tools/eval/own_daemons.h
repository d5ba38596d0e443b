#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/stop_signal.h"
#include "tools/launch/run_lease.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools::eval {

struct OwnDaemonsOptions {
  std::string folder;             // of a run: store, addresses, logs
  std::string model;              // Hugging Face folder; empty: no inference daemon
  std::string config;             // YAML with env:; empty: no environment daemon
  std::vector<std::string> sets;  // inference.KEY=VALUE, env.KEY=VALUE
};

// Daemons that live as long as this does, kept alive by a thread; they serve on 127.0.0.1, each on
// a free port. Takes SIGINT and SIGTERM meanwhile: make it before other threads.
class OwnDaemons {
 public:
  // INVALID_ARGUMENT when a daemon refuses its configuration, which it says on stderr.
  static absl::StatusOr<std::unique_ptr<OwnDaemons>> Start(const OwnDaemonsOptions& options);
  ~OwnDaemons();

  // Where the daemon of this role is now. UNAVAILABLE while it is being started, CANCELLED after a
  // signal, INTERNAL with its reason when it could not be kept alive. Any thread.
  absl::StatusOr<std::string> AddressOf(std::string_view role);

  bool stopping() const { return stop_.Requested(); }  // a signal came; any thread

 private:
  OwnDaemons(std::string folder, std::shared_ptr<RunLease> lease, std::vector<DaemonSpec> specs);

  const std::string folder_;
  StopSignal stop_;
  absl::Mutex mu_;
  std::optional<RunEnding> ending_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace palimpsest::tools::eval
