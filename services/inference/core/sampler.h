#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "common/rl/sampling.h"
#include "services/inference/core/engine.h"

// How one token is drawn. Pure: the randomness is the argument `u`.
namespace palimpsest::inference {

struct Draw {
  int32_t token = 0;
  float logprob =
      0;             // nats, log-softmax of raw logits / temperature (temperature 0: of raw logits)
  Alternatives top;  // params.top_logprobs of them
};

// logits [V], raw. counts: how often each id has been sampled, and seen_in_prompt for the
// repetition penalty. u in [0, 1). Order: penalties and bias, temperature, top_k, top_p, min_p.
// Ties go to the lower id. Weights are fp32; their sums run in double over blocks of ids, in order.
// Logits that are not finite give a log-probability that is not.
Draw SampleToken(std::span<const float> logits, const rl::SamplingParams& params,
                 const std::map<int32_t, int>& counts, const std::map<int32_t, int>& seen_in_prompt,
                 double u);

// Of a token that is given: its log-probability at `temperature` as above, and the likeliest `top`.
Draw WeighToken(std::span<const float> logits, int32_t token, double temperature, int32_t top);

}  // namespace palimpsest::inference
