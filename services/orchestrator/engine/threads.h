#pragma once

#include <functional>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace palimpsest::orchestrator {

// How the threads of a run begin and wait for each other. All of its waits go through here, the
// clock and the peers, so that a simulation can say who runs when. Any thread.
class Threads {
 public:
  virtual ~Threads() = default;

  class Thread {
   public:
    virtual ~Thread() = default;  // returns when the thread's work is done
  };
  virtual std::unique_ptr<Thread> Start(std::function<void()> work) = 0;

  // Until `holds`, as absl::Mutex::AwaitWithTimeout: the caller holds `mu`, which is free
  // meanwhile.
  virtual void Await(absl::Mutex& mu, const absl::Condition& holds, absl::Duration timeout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) = 0;
  void Await(absl::Mutex& mu, const absl::Condition& holds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    Await(mu, holds, absl::InfiniteDuration());
  }

  virtual void WaitFor(const absl::Notification& told, absl::Duration timeout) = 0;
};

// Those of the operating system.
Threads& SystemThreads();

}  // namespace palimpsest::orchestrator
