#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "services/orchestrator/engine/threads.h"

namespace palimpsest::orchestrator {

// A few threads for calls that block. The queue is bounded by its users: a stage never has more
// than its groups or its prompts in it. Any thread but the workers themselves.
class WorkerPool {
 public:
  WorkerPool(int size, Threads& threads);  // `threads` outlives it
  ~WorkerPool();                           // what is queued still runs

  void Submit(std::function<void()> work);
  // work(0), .., work(n - 1), several at once; the first error, after all have returned.
  absl::Status ForEach(int64_t n, const std::function<absl::Status(int64_t)>& work);

 private:
  void Work();

  Threads& threads_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::unique_ptr<Threads::Thread>> workers_;
};

}  // namespace palimpsest::orchestrator
