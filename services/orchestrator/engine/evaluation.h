#pragma once

#include <string>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// One measurement of the present weights: each prompt once, under a context.
struct Measurement {
  std::string name;     // under which the ledger keeps it
  std::string context;  // name of a policy
  bool greedy = false;
  int32_t prompts = 0;
  Split split = Split::kHeldout;
  PolicyVersion version;  // at least
};

// Rollouts that the ledger keeps whole, for the report: of the first prompts.
inline constexpr int64_t kKeptEvaluations = 16;

// Measures the prompts that the ledger lacks under this name, and gives the mean reward of all. A
// held-out prompt has the same episode and the same seed in every measurement.
absl::StatusOr<double> Measure(const Workplace& place, const Measurement& what);

}  // namespace palimpsest::orchestrator
