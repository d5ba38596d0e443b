#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

// How the next token is drawn: penalties, bias, temperature, top_k, top_p, min_p, in this order.
// Recorded log-probabilities are those of raw logits / temperature, before all the others.
struct SamplingParams {
  double temperature = 1;                      // >= 0; 0 = greedy (recorded at 1)
  int32_t top_k = 0;                           // 0 = off
  double top_p = 1;                            // (0, 1], 1 = off
  double min_p = 0;                            // [0, 1), 0 = off; relative to the likeliest token
  double repetition_penalty = 1;               // > 0, 1 = off
  double presence_penalty = 0;                 // [-2, 2]
  double frequency_penalty = 0;                // [-2, 2]
  std::map<int32_t, float> logit_bias = {};    // id -> added logit, [-100, 100]
  std::vector<int32_t> stop_ids = {};          // beside the model's own
  std::vector<std::string> stop_strings = {};  // at most kMaxStopStrings, none empty
  std::optional<int32_t> max_tokens = {};  // sampled tokens, > 0; absent = up to the max position
  int32_t min_tokens = 0;                  // no stop before; <= max_tokens
  uint64_t seed = 0;
  bool ignore_eos = false;  // the model's own stop ids do not stop
  // Alternatives reported per sampled and per prompt token, [0, kMaxAlternatives]; 0 = the tokens'
  // own only.
  std::optional<int32_t> top_logprobs = {};
  std::optional<int32_t> prompt_logprobs = {};
  bool operator==(const SamplingParams&) const = default;
};
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 1024;
inline constexpr int kMaxAlternatives = 100;
inline constexpr int kMaxMessageBytes = 1024;  // of one budget message

// INVALID_ARGUMENT naming field and value. Ids are checked against the vocabulary by the engine.
absl::Status Validate(const SamplingParams& params);

// Are draws taken from another distribution than the recorded one (top-k, top-p, min-p, penalties,
// bias)? Then the rollout is flagged `truncated_sampling`. Greedy draws are not: they have their
// own flag, and cutting to the likeliest changes nothing for them.
bool ChangesDistribution(const SamplingParams& params);

// Text injected while a sequence runs; {used}, {left} and {budget} in it are token counts.
struct BudgetMessages {
  std::string text = {};   // 1 to kMaxMessageBytes bytes
  bool at_events = false;  // after each event
  int32_t every = 0;       // after each `every` sampled tokens; 0 = off
  int32_t total = 0;       // what {budget} says; 0 = the request's max_tokens
  bool operator==(const BudgetMessages&) const = default;
};
absl::Status Validate(const BudgetMessages& messages);

}  // namespace palimpsest::rl
