#pragma once

#include "palimpsest/v1/trainer.grpc.pb.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/server/peer.h"

namespace palimpsest::orchestrator {

// The trainer's rank 0.
class GrpcTrainerClient final : public TrainerClient {
 public:
  explicit GrpcTrainerClient(const PeerConfig& config);

  absl::StatusOr<TrainerStatus> Status() override;
  absl::StatusOr<TrainResult> Train(const TrainBatch& batch) override;
  absl::StatusOr<Weights> Publish(int64_t step) override;
  absl::StatusOr<int64_t> SaveCheckpoint() override;

  PeerFacts Facts() const { return peer_.Facts(); }

 private:
  PeerConfig config_;
  Peer<v1::TrainerService::Stub> peer_;
};

}  // namespace palimpsest::orchestrator
