#pragma once

#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// May the request's `begun` samples go on under it? INVALID_ARGUMENT names the sample, field and
// value: numbers that rise and are among those asked for; the request's prompt, seed and
// temperature; cut before their end; a log that the model can have and the request's context policy
// writes, early events and what they listen to included; room for another token.
absl::Status CheckBegun(const GenerationRequest& request, const ModelInfo& model);

// Likewise of a session's `begun`, which is there; its context is validated.
absl::Status CheckBegun(const SessionSpec& spec, const ModelInfo& model);

// Where the steps of a session began, as its log shows it: behind the prompt, and with each
// injected token behind a sampled one. Steps that brought nothing new or were ended before their
// first token are not seen, and budget messages are taken for steps.
std::vector<int32_t> TurnsOf(const rl::Rollout& log);

// What there is of that sample; null when it begins with the prompt.
const rl::Rollout* FindBegun(const GenerationRequest& request, int32_t sample);

// Of the samples asked for, those that begin with the prompt, ascending.
std::vector<int32_t> SamplesToStart(const GenerationRequest& request);

}  // namespace palimpsest::inference
