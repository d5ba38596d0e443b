#include "tools/launch/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;

constexpr char kAttempt[] = "attempt-";

int HighestAttempt(const std::string& logs) {
  int highest = 0;
  std::error_code error;
  for (fs::directory_iterator entry(logs, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int number = 0;
    if (absl::StartsWith(name, kAttempt) &&
        absl::SimpleAtoi(name.substr(sizeof(kAttempt) - 1), &number)) {
      highest = std::max(highest, number);
    }
  }
  return highest;
}

// Held until this process ends. On this machine alone, where the file system does not carry locks.
absl::Status Lock(const std::string& run_folder) {
  const std::string path = run_folder + "/launch.lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  close(fd);
  return absl::FailedPreconditionError(
      absl::StrFormat("run.folder=%s: another launch or serve is at work there", run_folder));
}

absl::StatusOr<Attempt> NextAttempt(const std::string& logs) {
  const int number = HighestAttempt(logs) + 1;
  const std::string name = absl::StrFormat("%s%03d", kAttempt, number);
  Attempt attempt{.number = number, .folder = logs + "/" + name};
  if (mkdir(attempt.folder.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, attempt.folder);
  const std::string next = logs + "/.latest", latest = logs + "/latest";
  unlink(next.c_str());
  if (symlink(name.c_str(), next.c_str()) != 0) return absl::ErrnoToStatus(errno, next);
  if (std::rename(next.c_str(), latest.c_str()) != 0) return absl::ErrnoToStatus(errno, latest);
  return attempt;
}

void ForgetAddresses(const std::string& run_folder) {
  std::error_code ignored;
  for (fs::directory_iterator entry(run_folder + "/addresses", ignored), end;
       !ignored && entry != end; entry.increment(ignored)) {
    std::error_code gone;
    fs::remove(entry->path(), gone);
  }
}

}  // namespace

std::string Attempt::LogOf(std::string_view daemon) const {
  return absl::StrFormat("%s/%s.log", folder, daemon);
}

absl::StatusOr<Attempt> BeginAttempt(const std::string& run_folder) {
  const std::string logs = run_folder + "/logs";
  std::error_code error;
  fs::create_directories(logs, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrFormat("run.folder=%s: cannot make %s: %s", run_folder, logs, error.message()));
  }
  RETURN_IF_ERROR(Lock(run_folder));
  ASSIGN_OR_RETURN(std::shared_ptr<RunLease> lease,
                   RunLease::Take(run_folder, {.machine = MachineName()}));
  ASSIGN_OR_RETURN(Attempt attempt, NextAttempt(logs));
  attempt.lease = std::move(lease);
  ForgetAddresses(run_folder);
  return attempt;
}

std::string ReportOf(const std::string& run_folder) { return run_folder + "/report/report.json"; }

}  // namespace palimpsest::tools
