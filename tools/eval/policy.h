#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/context/policy.h"
#include "common/rl/sampling.h"
#include "tools/eval/aggregation.h"

namespace palimpsest::tools::eval {

// One way to treat the context, under a name.
struct Policy {
  std::string name;  // letters, digits, '_', '-', '.'
  std::string text;  // as it was given, without the name
  context::ContextPolicy context = {};
  int32_t length = 0;  // > 0: nothing is compacted, the sequence ends at so many tokens
  std::optional<rl::BudgetMessages> messages = {};  // injected while the answer is written
  Aggregation aggregation = {};  // of attempts, each of which is written under all of the above
};

// "NAME" or "NAME:key=value,..". Key `kind`: none (default), short (key `budget`: see `length`),
// kv_budget, segments or turns, these with the keys of `--set context.*`. Beside all but short:
// `inject` (a text without commas) with `inject_every` and `inject_at_events`. Beside all but short
// and turns: `population`, `aggregate` and `rounds`, of which none goes without the others.
absl::StatusOr<Policy> ParsePolicy(const std::string& text);

// "budget=B,window=W[,key=value..]" -> full, short, recent, attention, markovian and
// attention_matching, all but the first within B slots. The keys are those of kv_budget but
// `method` and `chooser`; markovian, which keeps nothing, gets budget, window and protect alone,
// short the budget alone.
absl::StatusOr<std::vector<Policy>> ParseBaselines(const std::string& text);

// All of both, the single ones first. Names twice, or none at all, are refused.
absl::StatusOr<std::vector<Policy>> ParsePolicies(const std::vector<std::string>& policies,
                                                  const std::string& baselines);

}  // namespace palimpsest::tools::eval
