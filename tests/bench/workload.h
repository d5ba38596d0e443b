#pragma once

#include <cstdint>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/context/policy.h"

// Rollouts as a trainer gets them: random tokens, and logs written by the real policy with random
// kept positions.
namespace palimpsest::bench {

struct Workload {
  int prompts = 1, samples = 1;  // a group is one prompt and its samples
  int32_t prompt_tokens = 0;
  int32_t response_tokens = 0;  // rows; lengths are spread by +- a quarter around it when ragged
  bool ragged = true;
  int32_t vocab = 0;
  uint64_t seed = 1;
};

struct Rollouts {
  std::vector<std::vector<int32_t>> tokens;  // one more than rows: the last is only a target
  std::vector<attention::ReplaySequence> sequences;
  double events_per_rollout = 0;
};

// `policy` without a trigger: no events.
Rollouts MakeRollouts(const Workload& work, const context::ContextPolicy& policy,
                      context::Shape shape);

}  // namespace palimpsest::bench
