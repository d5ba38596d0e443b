#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/orchestrator/core/progress.h"

namespace palimpsest::orchestrator {

// The run's progress, written by the loop and read by anyone. Any thread.
class ProgressBoard {
 public:
  void Update(const std::function<void(Progress&)>& change);
  Progress Now() const;
  // Returns when the sequence has passed `seen`, or after `timeout`.
  Progress WaitForChange(int64_t seen, absl::Duration timeout) const;

 private:
  mutable absl::Mutex mu_;
  Progress progress_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest::orchestrator
