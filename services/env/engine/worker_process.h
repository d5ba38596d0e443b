#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/unique_fd.h"
#include "services/env/core/worker.h"

namespace palimpsest::env {

// A process that answers frames (protos/palimpsest/v1/worker.proto) on its descriptor 3: nothing
// else of ours is open in it. It has its own process group, which is killed when the thread that
// started it ends, however that ends. Lines of its stdout and stderr go to the log, the first 1000
// of a life. Owner: the thread that started it.
class WorkerProcess {
 public:
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(const WorkerCommand& command,
                                                              Clock& clock);
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // One frame there, one back. kDeadlineExceeded: no answer by then; kDataLoss: what came is no
  // frame, or more than one; kUnavailable: the process has ended; kCancelled: `stop`, a descriptor,
  // became readable. After any of them the process is good for nothing.
  absl::StatusOr<std::string> Exchange(std::string_view request, absl::Time deadline, int stop);

  // Blocks until `work`, a descriptor, is readable. kUnavailable and kDataLoss as above: it ended,
  // or spoke without being asked.
  absl::Status AwaitWork(int work);

  // Kills what still runs after `grace`, which lets one that is ending come to its own end. How it
  // ended, with its last line: "exit code 1, last line: \"...\"".
  std::string End(absl::Duration grace);

  pid_t pid() const { return pid_; }

 private:
  struct Ready {
    bool readable = false, writable = false, woken = false;
  };
  WorkerProcess(std::string name, Clock& clock) : name_(std::move(name)), clock_(clock) {}
  absl::StatusOr<Ready> Poll(bool to_write, int wake, absl::Time deadline);
  absl::Status Send(std::string_view frame, size_t& sent);
  absl::Status Receive(std::string& received);
  bool ReadOutput();  // false: there is nothing more now
  void Say(std::string_view line);
  bool HasEnded() const;  // it may still be unreaped

  const std::string name_;
  Clock& clock_;
  pid_t pid_ = 0;
  int wait_status_ = 0;  // of waitpid, once reaped_
  bool reaped_ = false;
  UniqueFd socket_, output_;  // neither blocks
  std::string partial_, last_line_;
  int lines_ = 0;
};

}  // namespace palimpsest::env
