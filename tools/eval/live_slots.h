#pragma once

#include "common/base/status.h"
#include "common/rl/rollout.h"

namespace palimpsest::tools::eval {

// Live slots of the fullest head when the tokens behind the prompt were drawn.
struct LiveSlots {
  double mean = 0;
  int32_t peak = 0;
};

// Walks the log: the token at position p is drawn from a cache of p processed tokens, before an
// event at p. DATA_LOSS when the log does not fit itself. O(tokens + events * slots).
absl::StatusOr<LiveSlots> SlotsWhileDrawn(const rl::Rollout& rollout);

}  // namespace palimpsest::tools::eval
