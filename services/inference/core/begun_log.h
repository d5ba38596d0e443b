#pragma once

#include <span>
#include <string>

#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// A log that something is to go on from, and what it must fit.
struct BegunLog {
  std::string name;  // that refusals call it by
  const rl::Rollout& log;
  std::span<const int32_t> prompt;
  uint64_t seed = 0;
  const context::ContextPolicy& context;      // validated
  std::span<const int32_t> turn_begins = {};  // of a session's steps, ascending
};

// Does it begin with the prompt, draw by the seed, and is it one that the model can have and the
// context policy writes, early events, asked ones and what they listened to included? Is there room
// for another token? INVALID_ARGUMENT names field and value.
absl::Status CheckBegunLog(const BegunLog& begun, const ModelInfo& model);

}  // namespace palimpsest::inference
