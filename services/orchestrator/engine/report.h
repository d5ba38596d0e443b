#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// One evaluation, both ways.
struct HeldoutNumbers {
  std::string name;
  std::vector<EvaluationRow> sampled, greedy;  // ascending by index
  int64_t unjudged = 0;                        // prompts that could not be measured, of both
};

// Everything that the report says, read from the ledger.
struct ReportFacts {
  RunIdentity run;
  std::string context;    // name of the run's policy
  int32_t kv_budget = 0;  // 0 = the policy has none
  HeldoutNumbers first, last;
  std::map<std::string, HeldoutNumbers> also;  // by context
  std::vector<HeldoutNumbers> between;         // step-<n>, ascending
  std::vector<StepRow> steps;                  // sft and rl
  std::map<std::string, HeldoutNumbers> first_by_task, last_by_task;
  int64_t rl_steps = 0;
  double wall_s = 0;
  int32_t attempts = 0;
  int64_t policy_versions = 0;
  std::map<std::string, int64_t> counts;
};

// Half of the 95 % interval of a mean over prompts: 1.96 s / sqrt(n); 0 below two.
double HalfInterval(const std::vector<double>& values);

absl::StatusOr<ReportFacts> ReadFacts(const Workplace& place);
std::string ReportJson(const ReportFacts& facts);
// One JSON object a line: {"index", "greedy", "when", "reward", "needs_memory"}.
std::string HeldoutLines(const ReportFacts& facts);

// <run>/report/{report.json, heldout.jsonl, learning_curve.svg, report.md}, each whole or not at
// all. May be called again.
absl::Status WriteReport(const Workplace& place);

}  // namespace palimpsest::orchestrator
