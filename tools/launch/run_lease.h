#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace palimpsest::tools {

// Says to other machines who is at work at a run: the file <run>/launch.lease, which its holder
// writes anew again and again. flock (run_folder.h) says so to the processes of one machine, and on
// many shared file systems to them alone. Times are those of the reader's own clock: clocks of
// machines are not compared.
class RunLease {
 public:
  struct Terms {
    std::string machine;                         // a name for each, MachineName()
    absl::Duration beat = absl::Seconds(5);      // between two signs of life
    absl::Duration silence = absl::Seconds(20);  // after which a holder counts as dead: several
                                                 // beats, and what a file system may remember
  };

  // Waits for up to `silence` when the lease is another machine's. FAILED_PRECONDITION when that
  // one gives a sign of life. A holder on this machine is dead: the caller has the machine's lock.
  // Two that take a free lease at one moment both get it; one of them learns by its next beat that
  // it has lost it.
  static absl::StatusOr<std::unique_ptr<RunLease>> Take(const std::string& run_folder, Terms terms);
  ~RunLease();  // gives it back
  RunLease(const RunLease&) = delete;
  RunLease& operator=(const RunLease&) = delete;

  // ABORTED once another machine has taken it, because this process was silent for too long: what
  // it does to the run has to end at once. Any thread.
  absl::Status Held() const;

 private:
  RunLease(std::string path, Terms terms, std::string holder);
  absl::Status Write();
  void Beat();

  const std::string path_;
  const Terms terms_;
  const std::string holder_;  // this lease, unlike any other
  int64_t beats_ = 0;
  mutable absl::Mutex mu_;
  absl::Status held_ ABSL_GUARDED_BY(mu_);
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all of the above
};

// Host name and the kernel's boot: no other machine's, and no earlier life's.
std::string MachineName();

}  // namespace palimpsest::tools
