#include "services/orchestrator/engine/worker_pool.h"

#include <utility>

#include "common/telemetry/trace.h"

namespace palimpsest::orchestrator {

WorkerPool::WorkerPool(int size, Threads& threads) : threads_(threads) {
  for (int i = 0; i < size; ++i) workers_.push_back(threads_.Start([this] { Work(); }));
}

WorkerPool::~WorkerPool() {
  {
    absl::MutexLock lock(&mu_);
    ending_ = true;
  }
  workers_.clear();
}

void WorkerPool::Submit(std::function<void()> work) {
  absl::MutexLock lock(&mu_);
  queue_.push_back(std::move(work));
}

absl::Status WorkerPool::ForEach(int64_t n, const std::function<absl::Status(int64_t)>& work) {
  absl::Mutex mu;
  absl::Status first;
  int64_t left = n;
  for (int64_t i = 0; i < n; ++i) {
    Submit([&, i, caller = TraceScope::Now()] {
      const TraceScope traced(caller);
      bool failed = false;
      {
        absl::MutexLock lock(&mu);
        failed = !first.ok();
      }
      const absl::Status status = failed ? absl::OkStatus() : work(i);
      absl::MutexLock lock(&mu);
      first.Update(status);
      --left;
    });
  }
  const auto all = [&left] { return left == 0; };
  absl::MutexLock lock(&mu);
  threads_.Await(mu, absl::Condition(&all));
  return first;
}

void WorkerPool::Work() {
  const auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return ending_ || !queue_.empty();
  };
  for (;;) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mu_);
      threads_.Await(mu_, absl::Condition(&something));
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace palimpsest::orchestrator
