#pragma once

#include <algorithm>
#include <string>

#include "common/rl/sampling.h"
#include "tools/eval/model_facts.h"
#include "tools/eval/policy.h"
#include "tools/eval/questions.h"

namespace palimpsest::tools::eval {

// One answer to be made. What it refers to outlives it.
struct Order {
  const Asked& asked;
  const Policy& policy;
  std::string request_id;  // of this try; what is asked for it adds to it
  int32_t sample = 0;
  // The seed is that of the prompt, the same under every policy; max_tokens: of one response.
  rl::SamplingParams sampling;
};

// Positions that a sequence may have.
inline int32_t SequenceEnd(const Policy& policy, const ModelFacts& model) {
  return policy.length > 0 ? std::min(policy.length, model.max_position) : model.max_position;
}

}  // namespace palimpsest::tools::eval
