#pragma once

#include <map>
#include <optional>
#include <string>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// Keeps the trainer where the ledger is, and inference where the trainer is. The ledger's batches
// are sent in order, each under its own id, as often as the trainer asks: a trainer that was rolled
// back gets the same ones again. Owner: the loop's thread.
class Training {
 public:
  explicit Training(Workplace& place) : place_(place) {}

  // Waits until the trainer serves, takes its step over, records what it has published, and sends
  // what it lacks.
  absl::Status Synchronise();

  // Sends every batch of the ledger up to `step`.
  absl::Status TrainThrough(int64_t step);

  // A checkpoint of the trainer covers every batch of the ledger.
  absl::Status Save();

  // The present weights become a version, and every replica serves it.
  absl::Status Publish();
  // Publish, unless that was done for this step.
  absl::Status Serve();

  int64_t step() const { return step_; }
  int64_t served_step() const { return served_step_; }
  PolicyVersion version() const { return version_; }  // that inference serves
  // Somebody serves weights beyond ours: asks the trainer where it is, and publishes again.
  absl::Status ServeAnew();

  // The oldest of the weights that made a rollout, as the trainer's step; nullopt when one of them
  // is unknown or abandoned. A higher version may be older: a trainer that was rolled back
  // publishes what it went back to. Of a row the first and the last are looked up, and what is
  // known between.
  std::optional<int64_t> OldestStep(const std::vector<rl::Span>& spans) const;
  std::optional<int64_t> OldestStep(const RolloutRow& row) const;

  // Time in which rollouts were made, to be told with the next RL step.
  void AddGenerateSeconds(double seconds) { generate_seconds_ += seconds; }

 private:
  absl::Status ReadStatus();
  // The trainer's present weights as a version: the newest one, or another if that is damaged.
  absl::StatusOr<Weights> AskForVersion();
  absl::Status TakeVersions(const std::vector<Weights>& published, int64_t trainer_step);
  absl::StatusOr<TrainBatch> Build(const BatchRow& row, StepRow& facts) const;
  absl::Status BuildRl(const BatchRow& row, TrainBatch& batch, StepRow& facts) const;
  absl::Status Record(const BatchRow& row, StepRow facts, const TrainResult& result);
  void Tell(const StepRow& row);

  Workplace& place_;
  int64_t step_ = 0;
  int64_t served_step_ = -1;
  PolicyVersion version_;
  std::map<int64_t, int64_t> step_of_version_;
  double generate_seconds_ = 0;
};

}  // namespace palimpsest::orchestrator
