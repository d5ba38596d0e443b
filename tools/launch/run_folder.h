#pragma once

#include <string>
#include <string_view>

#include "common/base/status.h"

// What launch and serve themselves keep in the folder of a run, which may lie on a shared file
// system.
namespace palimpsest::tools {

// One life of a run's daemons, with logs of its own.
struct Attempt {
  int number = 0;      // counted from 1 over the life of the run
  std::string folder;  // <run>/logs/attempt-<number>
  std::string LogOf(std::string_view daemon) const;
};

// Takes the run for this process until that ends: two would fight over its addresses.
// FAILED_PRECONDITION when another one holds it. Then makes the folder of the attempt, its number
// one above any there is, and points <run>/logs/latest to it. Addresses of an earlier life, which
// would only mislead, are removed; their folder stays, because another node may remember it.
absl::StatusOr<Attempt> BeginAttempt(const std::string& run_folder);

// The report that ends a run; it is written last.
std::string ReportOf(const std::string& run_folder);

}  // namespace palimpsest::tools
