#pragma once

#include <functional>

#include "common/collective/collective.h"
#include "services/trainer/core/trainer.h"

// How the ranks of one trainer do the same things: rank 0, which serves, tells the others what to
// do next, and each does it with a Trainer of its own. Alone nothing is told.
namespace palimpsest::trainer {

// Rank 0's trainer as its server sees it. Once the ranks have parted Train, Publish and the saves
// answer UNAVAILABLE, with the collective's error: clients wait for the next life. `broken` has
// been called by then: the daemon is to end. One thread calls.
class LeadingTrainer final : public Trainer {
 public:
  // `trainer` and `ranks` outlive it. Batches carry their source.
  LeadingTrainer(Trainer& trainer, Collective& ranks, std::function<void()> broken)
      : trainer_(trainer), ranks_(ranks), broken_(std::move(broken)) {}

  const TrainerInfo& info() const override { return trainer_.info(); }
  Phase phase() const override { return trainer_.phase(); }
  int64_t step() const override { return trainer_.step(); }
  int64_t durable_step() const override { return trainer_.durable_step(); }
  int64_t saving_step() const override { return trainer_.saving_step(); }
  int64_t save_failures() const override { return trainer_.save_failures(); }
  std::string last_batch_id() const override { return trainer_.last_batch_id(); }
  absl::StatusOr<std::vector<PublishedVersion>> Published() const override {
    return trainer_.Published();
  }
  absl::Status Sound() const override { return trainer_.Sound(); }
  absl::StatusOr<TrainOutcome> Train(const Batch& batch) override;
  absl::StatusOr<PublishedVersion> Publish() override;
  absl::Status BeginSave() override;
  absl::Status Save() override;

  // The others end. The collective's error when they no longer listen.
  absl::Status End();

 private:
  absl::Status Tell(char command, const std::string& argument);
  // UNAVAILABLE once the ranks have parted, else `status`.
  absl::Status Judged(const absl::Status& status);

  Trainer& trainer_;
  Collective& ranks_;
  const std::function<void()> broken_;
};

// What the other ranks do: what rank 0 tells, until it tells to end. Its answers go nowhere: they
// are those of rank 0. Otherwise the error that parted the ranks.
absl::Status Follow(Trainer& trainer, Collective& ranks);

}  // namespace palimpsest::trainer
