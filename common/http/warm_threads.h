#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace palimpsest {

// A thread for each job that runs, at most so many. The one that became idle last has the next job
// and a new one is made when none is idle: few jobs at a time stay on few threads, however many
// there may be, and what each thread's allocator keeps (glibc: up to a quarter of a MiB) is there
// few times. Any thread may call.
class WarmThreads {
 public:
  explicit WarmThreads(int most) : most_(most) {}
  ~WarmThreads() { Join(); }

  // False: all of them are busy, or Join was called.
  bool Start(std::function<void()> job);
  // Returns when all jobs have ended.
  void Join();

  int made() const;  // threads so far

 private:
  struct Worker {
    std::function<void()> job;  // empty: idle
    std::thread thread;
  };
  void Run(Worker& worker);

  const int most_;
  mutable absl::Mutex mu_;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::unique_ptr<Worker>> workers_ ABSL_GUARDED_BY(mu_);
  std::vector<Worker*> idle_ ABSL_GUARDED_BY(mu_);  // the last one: idle for the shortest time
};

}  // namespace palimpsest
