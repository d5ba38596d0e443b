#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "palimpsest/v1/trainer.grpc.pb.h"
#include "tests/unit/common/collective/rank_process.h"

namespace palimpsest {

// The daemon that samples and the one that learns, on one small run, as processes of their own;
// what the orchestrator would do between them is the caller's. Killed with this object.
class TwoDaemons {
 public:
  // `folder` exists; all of the run stands in it.
  explicit TwoDaemons(std::string folder);

  // Once it answers. `settings` as after --set: "trainer.shadow.view=dense".
  absl::Status StartTrainer(const std::vector<std::string>& settings);
  // By SIGTERM; its exit code.
  int StopTrainer();
  std::string TrainerLog() const;
  // Once it serves a version, which the trainer has published.
  absl::Status StartInference();

  // `samples` rollouts of one prompt under `policy`, from version `least` on.
  absl::StatusOr<std::vector<v1::Rollout>> Generate(const std::string& id, int samples,
                                                    uint64_t seed, const v1::ContextPolicy& policy,
                                                    int64_t least);
  // Advantages of both signs.
  absl::StatusOr<v1::TrainBatchResponse> Train(int64_t step,
                                               const std::vector<v1::Rollout>& rollouts,
                                               double learning_rate);
  // The version that the weights after `step` became.
  absl::StatusOr<int64_t> Publish(int64_t step);

 private:
  std::string Config() const { return folder_ + "/run.yaml"; }
  std::string Run() const { return folder_ + "/run"; }

  const std::string folder_;
  std::unique_ptr<RankProcess> trainer_, inference_;
  std::unique_ptr<v1::TrainerService::Stub> trainer_stub_;
  std::unique_ptr<v1::InferenceService::Stub> inference_stub_;
};

// Events from 24 live slots on, each of 12 of which it keeps a quarter.
v1::ContextPolicy EventsOf(v1::CompactionMethod method);

}  // namespace palimpsest
