#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/weights/store.h"
#include "services/orchestrator/core/peers.h"
#include "services/trainer/core/step_ledger.h"
#include "tests/simulation/network.h"
#include "tests/simulation/promises.h"

namespace palimpsest::simulation {

// A trainer whose weights are the list of its batches. Its step ledger and its weights store are
// the real ones, the store on a real disk; checkpoints are memory that outlives it. Works at one
// request at a time.
class SimTrainer final : public orchestrator::TrainerClient {
 public:
  SimTrainer(const Scenario& scenario, std::string store, Scheduler& scheduler, Network& network,
             History& history, Promises& promises);

  void Die();
  void DieAtNextPublish() { dies_publishing_ = true; }

  absl::StatusOr<orchestrator::TrainerStatus> Status() override;
  absl::StatusOr<orchestrator::TrainResult> Train(const orchestrator::TrainBatch& batch) override;
  absl::StatusOr<orchestrator::Weights> Publish(int64_t step) override;
  absl::StatusOr<int64_t> SaveCheckpoint() override;

  const std::vector<std::string>& batches() const { return state_.batches; }
  int64_t durable_step() const { return saved_.ledger.step(); }

 private:
  struct State {
    trainer::StepLedger ledger;
    std::vector<std::string> batches;  // in the weights
  };
  // One request at a time; UNAVAILABLE when the process has died, or is not ready.
  class Turn;

  void Begin();  // of a process
  absl::StatusOr<orchestrator::TrainerStatus> Tell() const;
  absl::StatusOr<orchestrator::TrainResult> Learn(const orchestrator::TrainBatch& batch);
  absl::StatusOr<orchestrator::Weights> PublishNow();
  void LeaveHalfAVersion();
  bool Work(int life, double seconds);  // false: it died meanwhile

  const Scenario& scenario_;
  const std::string store_;
  Scheduler& scheduler_;
  Network& network_;
  History& history_;
  Promises& promises_;
  RandomStream random_;
  std::string tokenizer_;

  int life_ = 0;
  bool up_ = false;
  bool busy_ = false;
  int queued_ = 0;
  bool dies_publishing_ = false;
  State state_, saved_;
  std::unique_ptr<weights::StoreWriter> writer_;
  std::vector<orchestrator::Weights> published_;  // ascending; what the store holds
};

}  // namespace palimpsest::simulation
