#pragma once

#include <string>

#include "tools/eval/answers.h"
#include "tools/eval/model_facts.h"
#include "tools/eval/order.h"

namespace palimpsest::tools::eval {

// Plays an episode of several turns in a session of its own, which is deleted at the end:
//
//   CreateSession(prompt) ─▶ StepSession ─▶ text ─▶ Step ─▶ observation ─▶ StepSession(new_ids)
//                                 ▲                                             │
//                                 └── until done, max_turns or no room ◀────────┘
//
// A policy's `length` bounds the whole sequence. Fills in text (all behind the prompt), finish
// (`stop` when the environment said that it is over), responses and costs. Returns the episode as
// it stands then, for Score.
absl::StatusOr<std::string> PlayEpisode(Peers& peers, const ModelFacts& model, const Order& order,
                                        Answer& answer);

}  // namespace palimpsest::tools::eval
