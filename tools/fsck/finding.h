#pragma once

#include <map>
#include <string>

#include "absl/strings/str_format.h"
#include "tools/fsck/checks.h"

// How findings name things, and what several checks ask. Only .cc files of this room include it.
namespace palimpsest::tools {

inline std::string Named(const LedgerBatch& batch) {
  return absl::StrFormat("step %d (batch %s)", batch.step, batch.id);
}

inline std::string Named(const LedgerRollout& rollout) {
  return absl::StrFormat("rollout %s of prompt %d", rollout.id, rollout.prompt);
}

// Others are failures.
inline bool IsJudged(const LedgerRollout& r) {
  return r.outcome == rl::Outcome::kOk || r.outcome == rl::Outcome::kTruncated;
}

// Prompts that are in a batch, and the step of it.
inline std::map<int64_t, int64_t> StepsOfPrompts(const LedgerRows& ledger) {
  std::map<int64_t, int64_t> steps;
  for (const LedgerPrompt& prompt : ledger.prompts) {
    if (prompt.step.has_value()) steps[prompt.id] = *prompt.step;
  }
  return steps;
}

template <class... Args>
void Find(Check& check, const absl::FormatSpec<Args...>& format, const Args&... args) {
  check.findings.push_back(absl::StrFormat(format, args...));
}

}  // namespace palimpsest::tools
