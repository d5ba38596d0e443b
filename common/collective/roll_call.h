#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"

namespace palimpsest {

// Finds out who is to blame when ranks no longer come together. The first rank to notice leaves an
// alarm in a folder that all see; a thread of every rank that is alive, whatever its other threads
// wait for or compute, answers by a note that says how far it has come. Who does not answer was
// killed or stopped. Needs no server and no lock, so that a dead rank can hold nobody up.
class RollCall {
 public:
  // `folder` is there and belongs to this life of the ranks alone. `patience`: for the answers.
  RollCall(std::string folder, int rank, int size, absl::Duration patience, Clock& clock);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  // The next joint operation, of which this rank does `work`. When that fails, or any rank has
  // called the roll before: calls it, waits until all have answered or patience ends. ABORTED:
  // names the operation and the rank to blame; every later operation then fails likewise. One
  // thread at a time.
  absl::Status Together(std::string_view operation, const std::function<absl::Status()>& work);
  // This rank cannot go on for a reason of its own. Any thread, also beside an operation.
  void Fail(const absl::Status& why);
  // OK, or what all operations return from now on. Any thread.
  absl::Status health() const;

  // Whether any rank has called the roll: no operation can succeed any more. Any thread.
  bool called() const { return called_.load(); }

 private:
  struct Note;
  void Enter(std::string_view operation);
  absl::Status Blame(std::string_view how);
  void Leave(std::string_view kind, std::string_view text);
  Note Read(int rank) const;
  // Empty while it is worth waiting for more answers.
  std::string Verdict(bool wait_is_over) const;
  void Answer();

  const std::string folder_;
  const int rank_, size_;
  const absl::Duration patience_;
  Clock& clock_;
  std::atomic<bool> called_ = false;
  mutable absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);
  int64_t entered_ ABSL_GUARDED_BY(mu_) = 0;
  std::string operation_ ABSL_GUARDED_BY(mu_) = "nothing yet";
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all others
};

}  // namespace palimpsest
