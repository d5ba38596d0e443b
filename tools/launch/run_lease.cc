#include "tools/launch/run_lease.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/weights/durable_file.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kBetweenLooks = absl::Milliseconds(200);

constexpr int64_t kMostBytes = 4096;

// Lines: machine, holder, number of the beat. nullopt: there is none that can be read.
std::optional<std::string> Read(const std::string& path) {
  absl::StatusOr<std::string> text = weights::ReadSmallFile(path, kMostBytes);
  return text.ok() ? std::optional(*std::move(text)) : std::nullopt;
}

std::string LineOf(const std::string& lease, size_t number) {
  const std::vector<std::string> lines = absl::StrSplit(lease, '\n');
  return number < lines.size() ? lines[number] : "";
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

std::string MachineName() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return HostName() + " " + boot;
}

RunLease::RunLease(std::string path, Terms terms, std::string holder)
    : path_(std::move(path)), terms_(std::move(terms)), holder_(std::move(holder)) {}

absl::StatusOr<std::unique_ptr<RunLease>> RunLease::Take(const std::string& run_folder,
                                                         Terms terms) {
  const std::string path = run_folder + "/launch.lease";
  std::optional<std::string> known = Read(path);
  const absl::Time begin = SystemClock().Now();
  while (known && LineOf(*known, 0) != terms.machine &&
         SystemClock().Now() - begin < terms.silence) {
    SystemClock().SleepFor(kBetweenLooks);
    const std::optional<std::string> now = Read(path);
    if (now && *now != *known) {
      return absl::FailedPreconditionError(
          absl::StrFormat("run.folder=%s: another launch or serve is at work there: %s", run_folder,
                          LineOf(*now, 1)));
    }
    known = now;
  }
  const std::string holder = absl::StrFormat("%s, pid %d, since %s", HostName(), getpid(),
                                             absl::FormatTime(begin, absl::UTCTimeZone()));
  std::unique_ptr<RunLease> lease(new RunLease(path, std::move(terms), holder));
  RETURN_IF_ERROR(lease->Write());
  lease->thread_ = std::thread([&own = *lease] { own.Beat(); });
  return lease;
}

absl::Status RunLease::Write() {
  return weights::WriteFileDurably(
      path_, absl::StrFormat("%s\n%s\n%d\n", terms_.machine, holder_, beats_++));
}

// A beat that cannot be written (a full disk) is no reason to end: another one comes.
void RunLease::Beat() {
  absl::MutexLock lock(&mu_);
  while (!mu_.AwaitWithTimeout(absl::Condition(&over_), terms_.beat)) {
    mu_.Unlock();
    const std::optional<std::string> now = Read(path_);
    const bool lost = now && LineOf(*now, 1) != holder_;
    if (!lost) Write().IgnoreError();
    mu_.Lock();
    if (!lost) continue;
    held_ =
        absl::AbortedError(absl::StrFormat("%s: the run was taken by %s", path_, LineOf(*now, 1)));
    return;
  }
}

absl::Status RunLease::Held() const {
  absl::MutexLock lock(&mu_);
  return held_;
}

RunLease::~RunLease() {
  {
    absl::MutexLock lock(&mu_);
    over_ = true;
  }
  if (thread_.joinable()) thread_.join();
  const std::optional<std::string> now = Read(path_);
  std::error_code ignored;
  if (now && LineOf(*now, 1) == holder_) std::filesystem::remove(path_, ignored);
}

}  // namespace palimpsest::tools
