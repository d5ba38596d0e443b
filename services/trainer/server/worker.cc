#include "services/trainer/server/worker.h"

#include "absl/strings/str_format.h"

namespace palimpsest::trainer {

Worker::Worker(size_t max_queued) : max_queued_(max_queued), thread_([this] { Loop(); }) {}
Worker::~Worker() { Stop(); }

absl::Status Worker::Post(std::function<void()> job) {
  const absl::MutexLock lock(&mu_);
  if (stopped_) return absl::UnavailableError("the trainer is stopping");
  if (jobs_.size() >= max_queued_) {
    return absl::ResourceExhaustedError(absl::StrFormat("%d calls wait already", jobs_.size()));
  }
  jobs_.push_back(std::move(job));
  return absl::OkStatus();
}

void Worker::Stop() {
  {
    const absl::MutexLock lock(&mu_);
    stopped_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Worker::Loop() {
  for (;;) {
    std::function<void()> job;
    {
      const auto ready = [this]()
                             ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopped_ || !jobs_.empty(); };
      const absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&ready));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace palimpsest::trainer
