#pragma once

#include "common/model/decoder.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// Log-probabilities of given tokens under a given log, by replay: the trainer's code path.
absl::StatusOr<ScoreResult> ScoreTokens(const model::Decoder& decoder, PolicyVersion version,
                                        const ScoreRequest& request);

}  // namespace palimpsest::inference
