#pragma once

#include <map>
#include <string>
#include <vector>

#include "services/orchestrator/engine/training.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// One measurement of the weights of the trainer's step: each prompt once, under a context.
struct Measurement {
  std::string name;     // under which the ledger keeps it
  std::string context;  // name of a policy
  bool greedy = false;
  int32_t prompts = 0;
  Split split = Split::kHeldout;
};

// Rollouts that the ledger keeps whole, for the report: of the first prompts.
inline constexpr int64_t kKeptEvaluations = 16;

double MeanReward(const std::vector<EvaluationRow>& rows);  // 0 of none
// Of held-out prompts.
std::map<std::string, std::vector<EvaluationRow>> ByTask(const Workplace& place,
                                                         const std::vector<EvaluationRow>& rows);

// Measures the prompts that the ledger lacks under this name, and gives the mean reward of all that
// could be judged (INTERNAL when none could). A held-out prompt has the same episode and the same
// seed in every measurement. The weights are
// served first; what others have answered meanwhile (a trainer that was rolled back publishes those
// that it went back to) does not count, and is measured again when the trainer has caught up.
absl::StatusOr<double> Measure(const Workplace& place, Training& training, const Measurement& what);

}  // namespace palimpsest::orchestrator
