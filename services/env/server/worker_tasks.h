#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/telemetry/metrics.h"
#include "palimpsest/v1/environment.pb.h"
#include "palimpsest/v1/worker.pb.h"
#include "services/env/server/worker_config.h"

namespace palimpsest::env {

inline constexpr size_t kMaxState = size_t{64} << 10;  // bytes of Episode.state

// The tasks of all workers, by name. What a worker answers is checked here and never trusted. Any
// thread. Requests have been checked by the caller: the task is one of ours, split and index are
// legal. `deadline` bounds the wait for a free process.
//
// Errors beside those of Worker::Call: kInternal, the environment raised or its answer makes no
// sense; kNotFound, kInvalidArgument, kUnimplemented as the worker says.
class WorkerTasks {
 public:
  // Starts the workers by `start` and asks for their tasks. A name that occurs twice, or in
  // `taken`, is kAlreadyExists. `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<WorkerTasks>> Start(
      const std::vector<WorkerSection>& sections, const std::set<std::string>& taken,
      const WorkerStarter& start, Metrics& metrics);

  const v1::Task* Find(std::string_view task) const;  // nullptr: none of ours
  std::vector<v1::Task> tasks() const;                // by name

  absl::Status Reset(const v1::ResetRequest& request, absl::Time deadline,
                     v1::ResetResponse& response);
  absl::Status Step(const v1::StepRequest& request, absl::Time deadline,
                    v1::StepResponse& response);
  // A task that raised and a worker that was lost are outcomes of an OK answer: never a reward.
  absl::Status Score(const v1::EnvironmentServiceScoreRequest& request, absl::Time deadline,
                     v1::EnvironmentServiceScoreResponse& response);
  absl::Status Demonstrate(const v1::DemonstrateRequest& request, absl::Time deadline,
                           v1::DemonstrateResponse& response);

  // Kills the workers; every call, running or new, ends with kUnavailable.
  void Stop();

 private:
  struct Served {
    v1::Task task;
    Worker* worker;
  };
  explicit WorkerTasks(Metrics& metrics);
  absl::Status Add(const WorkerSection& section, const std::set<std::string>& taken,
                   const WorkerStarter& start);
  absl::StatusOr<v1::WorkerReply> Ask(std::string_view task, v1::WorkerRequest request,
                                      absl::Time deadline);

  MetricFamily<Counter> failures_;  // {task}
  std::atomic<int64_t> last_id_ = 0;
  std::map<std::string, Served, std::less<>> served_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace palimpsest::env
