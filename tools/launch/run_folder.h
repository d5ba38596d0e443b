#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/base/status.h"
#include "tools/launch/run_lease.h"

// What launch and serve themselves keep in the folder of a run, which may lie on a shared file
// system.
namespace palimpsest::tools {

// One life of a run's daemons, with logs of its own.
struct Attempt {
  int number = 0;                   // counted from 1 over the life of the run
  std::string folder;               // <run>/logs/attempt-<number>
  std::shared_ptr<RunLease> lease;  // of the run, until the last copy is gone
  std::string LogOf(std::string_view daemon) const;
};

// Takes the run for this process until that ends: two would fight over its addresses and its
// ledger. FAILED_PRECONDITION when another one holds it, on this machine or, as its lease tells, on
// another. Then makes the folder of the attempt, its number
// one above any there is, and points <run>/logs/latest to it. Addresses of an earlier life, which
// would only mislead, are removed; their folder stays, because another node may remember it.
absl::StatusOr<Attempt> BeginAttempt(const std::string& run_folder);

// The report that ends a run; it is written last.
std::string ReportOf(const std::string& run_folder);

}  // namespace palimpsest::tools
