#pragma once

#include "common/model/decoder.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// INVALID_ARGUMENT naming field and value.
absl::Status CheckScore(const ScoreRequest& request, int32_t vocab, int32_t max_position);

// Log-probabilities of given tokens under a given log, by replay: the trainer's code path.
absl::StatusOr<ScoreResult> ScoreTokens(const model::Decoder& decoder, PolicyVersion version,
                                        const ScoreRequest& request);

}  // namespace palimpsest::inference
