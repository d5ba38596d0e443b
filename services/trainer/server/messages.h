#pragma once

#include "common/base/status.h"
#include "palimpsest/v1/trainer.pb.h"
#include "services/trainer/core/trainer.h"

// TrainerService's messages <-> the values of the core.
namespace palimpsest::trainer {

// INVALID_ARGUMENT for a request that contradicts itself as a whole; an item that cannot be read
// becomes one of batch.unreadable.
absl::StatusOr<Batch> FromProto(const v1::TrainBatchRequest& request);
v1::TrainBatchResponse ToProto(const TrainOutcome& outcome);
v1::WeightsAnnouncement ToProto(const PublishedVersion& version);
v1::TrainerPhase ToProto(Phase phase);

}  // namespace palimpsest::trainer
