#pragma once

#include "common/rl/rollout.h"
#include "tools/eval/answers.h"

namespace palimpsest::tools::eval {

// Adds what a sequence has cost to what the answer has cost so far: tokens, events, seconds are
// summed, mean_slots is a mean over tokens. DATA_LOSS when the rollout's log does not fit itself.
absl::Status AddCost(const rl::Rollout& rollout, Answer& answer);

}  // namespace palimpsest::tools::eval
