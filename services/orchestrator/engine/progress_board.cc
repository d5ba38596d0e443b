#include "services/orchestrator/engine/progress_board.h"

namespace palimpsest::orchestrator {

void ProgressBoard::Update(const std::function<void(Progress&)>& change) {
  absl::MutexLock lock(&mu_);
  change(progress_);
  ++progress_.sequence;
}

Progress ProgressBoard::Now() const {
  absl::MutexLock lock(&mu_);
  return progress_;
}

Progress ProgressBoard::WaitForChange(int64_t seen, absl::Duration timeout) const {
  const auto passed = [this, seen]()
                          ABSL_SHARED_LOCKS_REQUIRED(mu_) { return progress_.sequence > seen; };
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(&passed), timeout);
  return progress_;
}

}  // namespace palimpsest::orchestrator
