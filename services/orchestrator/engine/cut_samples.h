#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "services/orchestrator/core/peers.h"

namespace palimpsest::orchestrator {

// What there is of a sample that lacks its end, or only its judgement.
struct CutSample {
  rl::Rollout rollout;  // of several turns: through the model's last whole response
  std::string text;     // of one that had ended; of several turns: that response
  // Of several turns:
  Episode episode;        // before the environment was told that response
  int32_t responses = 0;  // whole ones, that one included; 0: not of several turns

  bool ended() const {
    return responses == 0 && (rollout.finish_reason == rl::FinishReason::kStop ||
                              rollout.finish_reason == rl::FinishReason::kLength);
  }
};
using CutSamples = std::map<int32_t, CutSample>;  // by sample

}  // namespace palimpsest::orchestrator
