#pragma once

#include <vector>

#include "common/base/status.h"
#include "common/context/policy.h"
#include "common/rl/rollout.h"

namespace palimpsest::simulation {

inline constexpr context::Shape kShape{.layers = 2, .kv_heads = 2};  // of the simulated model

// The events of a rollout that was made under `policy`: when they fall due is decided as in an
// engine, which slots survive is drawn. A function of the policy and of the rollout's tokens and
// seed, so that a log can be judged wherever the rollout has been.
std::vector<context::Event> EventsOf(const context::ContextPolicy& policy,
                                     const rl::Rollout& rollout);

// DATA_LOSS unless the rollout's log is that, and sound by itself (windows, kept slots, digests).
absl::Status CheckEvents(const context::ContextPolicy& policy, const rl::Rollout& rollout);

}  // namespace palimpsest::simulation
