#pragma once

#include "palimpsest/v1/orchestrator.pb.h"
#include "palimpsest/v1/server.pb.h"
#include "palimpsest/v1/trainer.pb.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/core/progress.h"

// Messages <-> values of this service.
namespace palimpsest::orchestrator {

v1::WeightsAnnouncement AnnouncementToProto(const Weights& weights);
Weights AnnouncementFromProto(const v1::WeightsAnnouncement& proto);

v1::TrainBatchRequest BatchToProto(const TrainBatch& batch);
// The answer to `batch`; INTERNAL when it contradicts the batch, naming the field.
absl::StatusOr<TrainResult> ResultFromProto(const v1::TrainBatchResponse& proto,
                                            const TrainBatch& batch);

v1::Progress ProgressToProto(const Progress& progress, const std::vector<PeerFacts>& peers);
v1::RolloutSummary SummaryToProto(const RolloutRow& row);

// A rollout in the ledger is the contract's message.
class WireRolloutCodec final : public RolloutCodec {
 public:
  std::string Encode(const rl::Rollout& rollout) const override;
  absl::StatusOr<rl::Rollout> Decode(std::string_view bytes) const override;
};

}  // namespace palimpsest::orchestrator
