#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/collective/collective.h"
#include "common/weights/store.h"
#include "services/trainer/core/admission.h"
#include "services/trainer/core/step_ledger.h"
#include "services/trainer/core/trainer.h"
#include "services/trainer/engine/adamw.h"
#include "services/trainer/engine/checkpoint_writer.h"
#include "services/trainer/engine/model_source.h"
#include "services/trainer/engine/options.h"
#include "services/trainer/engine/parameter_shards.h"
#include "services/trainer/engine/replay_pass.h"
#include "services/trainer/engine/sequences.h"

namespace palimpsest::trainer {

struct Accumulated;

// The weights and what moves them: replays batches with their recorded events, steps, saves,
// publishes. One thread, save for what Trainer allows to any.
//
// Of several ranks each holds all weights, or its slices of them, replays its share of a batch and
// owns a part of the optimiser's state. All ranks call Open, Train, Publish, BeginSave and Save
// with the same arguments in the same order and get the same answers; rank 0 alone writes versions
// and says which there are. What fails on one rank before gradients meet fails on all, under its
// name, and the weights are as before; a failure after that, or in a pass over sharded layers, is
// the collective's.
class TrainerEngine final : public Trainer {
 public:
  // Goes on from the checkpoint of the run that options.resume names, of any number of ranks, or
  // makes the model. `clock` and `ranks` outlive it.
  static absl::StatusOr<std::unique_ptr<TrainerEngine>> Open(const EngineOptions& options,
                                                             Clock& clock,
                                                             Collective& ranks = Alone());

  const TrainerInfo& info() const override { return info_; }
  Phase phase() const override { return phase_.load(); }
  int64_t step() const override { return ledger_.step(); }
  int64_t durable_step() const override { return writer_.durable_step(); }
  int64_t saving_step() const override { return writer_.saving_step(); }
  int64_t save_failures() const override { return writer_.failures(); }
  std::string last_batch_id() const override;
  absl::StatusOr<std::vector<PublishedVersion>> Published() const override;
  absl::Status Sound() const override;
  absl::StatusOr<TrainOutcome> Train(const Batch& batch) override;
  absl::StatusOr<PublishedVersion> Publish() override;
  absl::Status BeginSave() override;
  absl::Status Save() override;

  const model::Decoder& decoder() const { return *model_.decoder; }

 private:
  // What a batch becomes once its items have been looked at.
  struct Admitted {
    std::vector<LossSequence> sequences;
    std::vector<Rejected> rejected;
    int64_t loss_tokens = 0;
  };

  TrainerEngine(const EngineOptions& options, SourceModel model, CheckpointFolder checkpoints,
                StepLedger ledger, Clock& clock, Collective& ranks);
  absl::Status OpenStore();
  absl::Status BeginWrite();
  absl::StatusOr<std::optional<PolicyVersion>> NewestVersion() const;
  absl::StatusOr<Admitted> Admit(const Batch& batch, std::optional<PolicyVersion> newest) const;
  absl::StatusOr<StepResult> Learn(const Batch& batch);
  PassViews ViewsOfNextStep() const;
  absl::StatusOr<size_t> PassesTogether(size_t micro_batches) const;
  absl::Status LearnFrom(const MicroBatches& micro_batches, bool rl, size_t together,
                         Accumulated& sums);
  absl::Status Replay(const Batch& batch, const std::optional<PolicyVersion>& newest,
                      Admitted& admitted, Accumulated& sums);
  absl::Status TakeStep(const Batch& batch, StepResult& result);

  EngineOptions options_;
  Clock& clock_;
  Collective& ranks_;
  TrainerInfo info_;
  std::atomic<Phase> phase_ = Phase::kIdle;
  SourceModel model_;
  std::unique_ptr<model::Decoder> reference_;  // null without a KL
  ParameterShards shards_;
  AdamW optimizer_;
  StepLedger ledger_;
  CheckpointWriter writer_;
  std::vector<rl::Replayed> replayed_;           // in the latest step of this process
  std::unique_ptr<weights::StoreWriter> store_;  // of rank 0
};

}  // namespace palimpsest::trainer
