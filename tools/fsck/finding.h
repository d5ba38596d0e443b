#pragma once

#include <string>

#include "absl/strings/str_format.h"
#include "tools/fsck/checks.h"

// How findings name things. Only .cc files of this room include it.
namespace palimpsest::tools {

inline std::string Named(const LedgerBatch& batch) {
  return absl::StrFormat("step %d (batch %s)", batch.step, batch.id);
}

inline std::string Named(const LedgerRollout& rollout) {
  return absl::StrFormat("rollout %s of prompt %d", rollout.id, rollout.prompt);
}

template <class... Args>
void Find(Check& check, const absl::FormatSpec<Args...>& format, const Args&... args) {
  check.findings.push_back(absl::StrFormat(format, args...));
}

}  // namespace palimpsest::tools
