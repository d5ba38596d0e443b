#pragma once

#include <string>

#include "common/base/status.h"

// What launch itself keeps in the folder of a run, which may lie on a shared file system.
namespace palimpsest::tools {

// One launch per run: two would fight over its addresses. Held until this process ends.
// FAILED_PRECONDITION when another one holds it.
absl::Status LockRun(const std::string& run_folder);

// Makes <run>/logs/attempt-<n>, one higher than any there is, and points <run>/logs/latest to it.
struct Attempt {
  int number = 0;
  std::string folder;
};
absl::StatusOr<Attempt> BeginAttempt(const std::string& run_folder);

// Removes the addresses of an earlier life: all daemons of this run are ours. Their folder stays,
// because another node may remember it.
void ForgetAddresses(const std::string& run_folder);

// The report that ends a run; it is written last.
std::string ReportOf(const std::string& run_folder);

}  // namespace palimpsest::tools
