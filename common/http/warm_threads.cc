#include "common/http/warm_threads.h"

#include <utility>

namespace palimpsest {

bool WarmThreads::Start(std::function<void()> job) {
  absl::MutexLock lock(&mu_);
  if (over_) return false;
  if (!idle_.empty()) {
    Worker& worker = *idle_.back();
    idle_.pop_back();
    worker.job = std::move(job);
    return true;
  }
  if (std::ssize(workers_) >= most_) return false;
  Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
  worker.job = std::move(job);
  worker.thread = std::thread([this, &worker] { Run(worker); });
  return true;
}

void WarmThreads::Run(Worker& worker) {
  const auto wanted = [&] { return worker.job || over_; };
  absl::MutexLock lock(&mu_);
  for (;;) {
    mu_.Await(absl::Condition(&wanted));
    if (!worker.job) return;
    const std::function<void()> job = std::exchange(worker.job, nullptr);
    mu_.Unlock();
    job();
    mu_.Lock();
    idle_.push_back(&worker);
  }
}

void WarmThreads::Join() {
  std::vector<std::unique_ptr<Worker>> workers;
  {
    absl::MutexLock lock(&mu_);
    over_ = true;
    workers.swap(workers_);
  }
  for (const auto& worker : workers) worker->thread.join();
}

int WarmThreads::made() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(workers_.size());
}

}  // namespace palimpsest
