#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/orchestrator/core/progress.h"
#include "services/orchestrator/engine/training.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// FAILED_PRECONDITION when the run in `folder` is over after another number of RL steps.
absl::Status CheckTarget(const Ledger& ledger, const std::string& folder, int64_t steps);

// One run, from its first peer to its report:
//
//   meet peers ─▶ catch the trainer up with the ledger ─▶ sft stages, each to its bound, loss or
//   gate
//        ─▶ held-out "first" ─▶ rl (see rl_stage.h) ─▶ held-out "last", other contexts ─▶ report
//
// Every arrow is a row of the ledger: a run that was killed goes on at the arrow where it was, and
// within it after the last step, group or prompt that was committed.
// Execute is called once, by one thread; everything else may be called by any thread.
class Run : public RunView {
 public:
  // `peers`, `metrics`, `clock` and `threads` outlive the run. The folder must be there.
  static absl::StatusOr<std::unique_ptr<Run>> Open(RunPlan plan, RunIdentity identity, Peers peers,
                                                   Metrics& metrics, Clock& clock,
                                                   Threads& threads = SystemThreads());
  ~Run() override;

  // OK when the run is done or was stopped; Finished tells which.
  absl::Status Execute();
  bool Finished() const;
  // Before Execute: calls of RL go to `trace`, which outlives the run.
  void SetTrace(StepTrace* trace) { place_.trace = trace; }
  // Ends the run soon, to go on at a restart. Harmless when repeated.
  void Stop();
  // Says that this attempt still lives; wall time counts until the last one.
  void Beat();

  Progress Now() const override;
  Progress WaitForChange(int64_t seen, absl::Duration timeout) const override;
  bool Ended() const override { return ended_; }
  int32_t InFlight() const override { return in_flight_; }
  void SetPaused(bool paused) override { paused_ = paused; }
  bool Paused() const override { return paused_; }
  void Drain(absl::Duration grace) override;
  absl::StatusOr<RolloutPage> ListRollouts(const RolloutFilter& filter) const override;
  absl::StatusOr<RolloutRow> GetRollout(const std::string& id) const override;
  absl::StatusOr<std::vector<std::string>> Pieces(
      const std::vector<int32_t>& tokens) const override;

 private:
  Run(RunPlan plan, RunIdentity identity, Peers peers, Metrics& metrics, Clock& clock,
      Threads& threads, std::unique_ptr<Ledger> ledger);

  absl::Status Stages();
  absl::Status Meet();
  absl::Status LoadTokenizer();
  absl::Status Sft(Training& training);
  absl::Status Rl(Training& training);
  absl::Status Heldout(Training& training, const std::string& name, const std::string& context);
  absl::Status Report();
  absl::StatusOr<bool> IsOver(const std::string& stage) const;
  Progress WithTimes(Progress progress) const;

  RunPlan plan_;
  RunIdentity identity_;
  Peers peers_;
  Clock& clock_;
  RunMetrics metrics_;
  std::unique_ptr<Ledger> ledger_;
  ProgressBoard board_;
  absl::Notification stop_;
  absl::Mutex stop_mu_;  // the notification is given once
  std::atomic<bool> paused_ = false;
  std::atomic<bool> ended_ = false;
  std::atomic<int> in_flight_ = 0;
  Patience patience_;
  absl::Time began_;
  double wall_before_ = 0;  // seconds of earlier attempts
  WorkerPool workers_;
  Workplace place_;
  mutable absl::Mutex tokenizer_mu_;
  // As in the workplace, for readers of the run.
  std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(tokenizer_mu_);
};

}  // namespace palimpsest::orchestrator
