#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace palimpsest::trainer {

// The one thread that touches the trainer, with a bounded queue before it. Any thread may ask.
class Worker {
 public:
  explicit Worker(size_t max_queued);
  ~Worker();  // Stop()

  // Runs `job` after those before it. RESOURCE_EXHAUSTED: the queue is full; UNAVAILABLE: stopped;
  // DEADLINE_EXCEEDED: the caller waits no longer, the job is done all the same.
  template <class T>
  absl::StatusOr<T> Run(absl::Time deadline, std::function<absl::StatusOr<T>()> job) {
    struct Answer {
      absl::Notification done;
      std::optional<absl::StatusOr<T>> value;
    };
    const auto answer = std::make_shared<Answer>();
    RETURN_IF_ERROR(Post([answer, job = std::move(job)] {
      answer->value = job();
      answer->done.Notify();
    }));
    if (!answer->done.WaitForNotificationWithDeadline(deadline)) {
      return absl::DeadlineExceededError("the trainer is still at work; ask again");
    }
    return *std::move(answer->value);
  }

  absl::Status Post(std::function<void()> job);

  // Takes no more, does what is queued, ends the thread.
  void Stop();

 private:
  void Loop();

  const size_t max_queued_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace palimpsest::trainer
