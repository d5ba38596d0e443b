#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "services/inference/core/engine.h"
#include "tests/fuzz/guided/tiny_model.h"

namespace palimpsest::fuzz {

// Each look is a millisecond later, and it can be moved. Any thread.
class TickingClock final : public Clock {
 public:
  absl::Time Now() override;
  void SleepFor(absl::Duration) override {}
  void Move(absl::Duration d);

 private:
  absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_) = absl::UnixEpoch();
};

// An engine that steps when it is told to, under a clock of its own, so that the input alone says
// what happens. What it tells is held against the promises of GenerationSink, of the wire and of
// the log; whatever breaks one ends the process. Owner: one thread.
class TinyEngine {
 public:
  explicit TinyEngine(int64_t kv_pool_bytes = kTinyPool);
  ~TinyEngine();

  inference::Engine& engine() { return *engine_; }
  TickingClock& clock() { return clock_; }

  // As Engine::Submit. A refusal may be anything but a fault of ours.
  absl::Status Submit(inference::GenerationRequest request);
  // New weights between two steps; kFinish lets what runs come to its end first.
  void UpdateWeights(int folder, PolicyVersion version, inference::WeightsMode mode);
  // At most so many steps, fewer when nothing is left to do.
  void Go(int steps);
  // All that was submitted comes to its end in a bounded number of steps, sessions are deleted, and
  // everything is as before the first request.
  void Finish();

  // It steps no more, whatever is asked: what a target does that plants a defect.
  void Freeze() { frozen_ = true; }

  // The latest sample that was cut, as the request that goes on with it; not of a session's step.
  std::optional<inference::GenerationRequest> TakeCut();
  // The log after the latest whole step of a session, and which one that was.
  struct SessionLog {
    std::string session;
    rl::Rollout log;
  };
  std::optional<SessionLog> TakeSessionLog();
  // Rollouts that came to their end since the last call.
  std::vector<rl::Rollout> TakeFinished();

 private:
  class Listener;
  void OnStep();
  void Settle();

  TickingClock clock_;
  bool frozen_ = false;
  absl::Mutex mu_;
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;  // samples without a last word
  int left_ ABSL_GUARDED_BY(mu_) = 0;       // steps that it may still go
  int64_t steps_ ABSL_GUARDED_BY(mu_) = 0;  // so far
  std::optional<inference::GenerationRequest> cut_ ABSL_GUARDED_BY(mu_);
  std::optional<SessionLog> session_log_ ABSL_GUARDED_BY(mu_);
  std::vector<rl::Rollout> finished_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<inference::Engine> engine_;  // last: its thread calls the others
};

// Ends the process when the status speaks of a fault of ours.
void ExpectNoFault(const absl::Status& status, const char* where);

}  // namespace palimpsest::fuzz
