#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace palimpsest::env {

// Longest frame to or from a worker, in bytes without its header.
inline constexpr size_t kMaxFrame = size_t{16} << 20;

// How a process of a worker is started.
struct WorkerCommand {
  std::string name;                      // of the worker, for messages and metrics
  std::vector<std::string> argv;         // argv[0] is the path of a program
  std::vector<std::string> environment;  // "KEY=value": all that the process gets
  int64_t memory_bytes = 0;              // limit of its address space; 0: none
  bool operator==(const WorkerCommand&) const = default;
};

struct WorkerConfig {
  WorkerCommand command;
  int processes = 1;                                       // each works on one call at a time
  int max_waiting = 256;                                   // calls that no process has begun yet
  absl::Duration start_timeout = absl::Minutes(1);         // from its start to its first answer
  absl::Duration call_timeout = absl::Minutes(1);          // of one call on a process
  absl::Duration first_backoff = absl::Milliseconds(200);  // before a restart; it doubles until a
  absl::Duration max_backoff = absl::Seconds(30);          // process answers a call
  bool operator==(const WorkerConfig&) const = default;
};

// One question. `accept` gets the answer, on a thread of the worker; its error means that the
// answer is broken. It may be called after the caller has given up: it owns what it writes to.
struct WorkerCall {
  std::string request;  // at most kMaxFrame
  std::function<absl::Status(const std::string& answer)> accept;
};

// Processes that answer frames. Any thread. Calls are pure: they go to any process.
class Worker {
 public:
  virtual ~Worker() = default;

  // kAborted: the process was lost while it worked on this call, the message says how;
  // kUnavailable: none was free until `deadline`, or for start_timeout + call_timeout, or the
  // worker was stopped; kResourceExhausted: max_waiting calls wait already.
  virtual absl::Status Call(WorkerCall call, absl::Time deadline) = 0;

  // Kills the processes; calls end with kUnavailable, now and later. Harmless when repeated.
  virtual void Stop() = 0;
};

// Starts a worker. Returns when each of its processes has answered `greeting`, or with the reason
// why one did not. Every later process is asked `greeting` first, too.
using WorkerStarter = std::function<absl::StatusOr<std::unique_ptr<Worker>>(
    const WorkerConfig& config, const WorkerCall& greeting)>;

}  // namespace palimpsest::env
