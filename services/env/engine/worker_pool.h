#pragma once

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/unique_fd.h"
#include "common/telemetry/metrics.h"
#include "services/env/core/worker.h"
#include "services/env/engine/worker_process.h"

namespace palimpsest::env {

struct WorkerMetrics {
  explicit WorkerMetrics(Metrics& metrics);
  MetricFamily<Gauge> alive;     // {worker}
  MetricFamily<Gauge> waiting;   // {worker}
  MetricFamily<Counter> losses;  // {worker, cause}
};

// A process that ends, gives no answer in time or answers rubbish is killed and replaced, which
// costs the one call that it was working on. Each process is owned by a thread of the pool.
class WorkerPool final : public Worker {
 public:
  // As a WorkerStarter does; FAILED_PRECONDITION: a process ended, or answered rubbish, before it
  // had served at all, and would again. `metrics` and `clock` outlive it.
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const WorkerConfig& config,
                                                       const WorkerCall& greeting,
                                                       const WorkerMetrics& metrics, Clock& clock);
  ~WorkerPool() override;  // Stop()

  absl::Status Call(WorkerCall call, absl::Time deadline) override;
  void Stop() override;

 private:
  struct Job;
  WorkerPool(const WorkerConfig& config, const WorkerCall& greeting, const WorkerMetrics& metrics,
             Clock& clock);
  void Keep();
  absl::Status Live(bool& useful);
  absl::Status Serve(WorkerProcess& process, bool& useful);
  absl::Status Ask(WorkerProcess& process, const WorkerCall& call, absl::Duration timeout);
  absl::Status Lost(WorkerProcess& process, const absl::Status& how);
  std::shared_ptr<Job> Take();
  bool Remove(const std::shared_ptr<Job>& job);
  void ReportStart(const absl::Status& status);
  bool Pause(absl::Duration wait) const;

  const WorkerConfig config_;
  const WorkerCall greeting_;
  const WorkerMetrics metrics_;
  Gauge alive_, waiting_;
  Clock& clock_;
  UniqueFd stop_;  // eventfd, readable from the destructor on
  UniqueFd work_;  // eventfd, counts the jobs that were queued
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mu_);
  int started_ ABSL_GUARDED_BY(mu_) = 0;             // processes that have answered the greeting
  absl::Status start_failure_ ABSL_GUARDED_BY(mu_);  // of the first that did not
  absl::Status last_loss_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> keepers_;  // one for each process
};

}  // namespace palimpsest::env
