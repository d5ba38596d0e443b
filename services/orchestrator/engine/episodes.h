#pragma once

#include <optional>
#include <vector>

#include "services/orchestrator/engine/cut_samples.h"
#include "services/orchestrator/engine/framing.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// One sample and what the environment is to judge.
struct Played {
  Sample sample;
  Episode episode;    // as it stands at the end
  int32_t turns = 1;  // responses
  // Of several turns: what a later try goes on from, when this one was cut or cannot be judged.
  std::optional<CutSample> left = {};
  bool continued = false;  // it went on from a log
};

// Weights that are still being loaded are worth waiting for, too.
inline bool MayPassWithWeights(const absl::Status& status) {
  return MayPass(status) || absl::IsFailedPrecondition(status);
}

// Plays `call.n` samples of an episode of several turns, numbered from call.first_sample, all at
// once, each in a session of its own:
//
//   CreateSession(prompt) ─▶ StepSession ─▶ text ─▶ env.Step ─▶ observation ─▶ StepSession(new_ids)
//                                 ▲                                                │
//                                 └──── until done, max_turns or no room ◀─────────┘
//
// One of `cut` begins where it was left: CreateSession(its log), and the environment is told its
// last response again; with a log that inference refuses it is played from the prompt.
//
// The session's log is the rollout: observations are injected tokens, events lie where they fell.
// `call.sampling.max_tokens` bounds one response; `call.sampling.seed` and the number of a sample
// key its draws, so that a second try draws the same. A sample that a daemon or the task has
// failed, or a stop has ended, says so by its status; an error status means that no try can help.
absl::StatusOr<std::vector<Played>> PlayEpisodes(const Workplace& place, const Prompt& prompt,
                                                 const Framing& framing, const GenerateCall& call,
                                                 const CutSamples& cut);

}  // namespace palimpsest::orchestrator
