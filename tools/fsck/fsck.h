#pragma once

#include <iosfwd>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace palimpsest::tools {

struct FsckOptions {
  std::string run;                           // its folder
  std::optional<int64_t> max_staleness;      // what the run was told; judged when given
  absl::Duration settle = absl::Seconds(2);  // before damage on a live run's disk is believed
};

// Proves from the run's ledger, checkpoints and store what holds of a sound run, alive or killed;
// changes nothing. `out` gets {"run", "checks": [{"name", "ok", "looked_at", "findings",
// "notes"}]}, `table` the same to read. 0: sound; 1: findings; 2: not a run.
int RunFsck(const FsckOptions& options, std::ostream& out, std::ostream& table);

}  // namespace palimpsest::tools
