#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <span>
#include <thread>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/weights/durable_file.h"
#include "tools/doctor/probe.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;

constexpr int kRenames = 50;
constexpr absl::Duration kLongest = absl::Seconds(5);  // for these
constexpr size_t kBytes = 16384;                       // more than one page

// Deleted with everything in it.
class ProbingFolder {
 public:
  explicit ProbingFolder(const std::string& parent)
      : path_(parent + "/" + weights::TemporaryName()) {
    status_ =
        mkdir(path_.c_str(), 0755) == 0 ? absl::OkStatus() : weights::IoError(errno, "make", path_);
  }
  ~ProbingFolder() {
    std::error_code ignored;
    if (status_.ok()) fs::remove_all(path_, ignored);
  }
  const absl::Status& status() const { return status_; }
  std::string operator/(const char* name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  absl::Status status_;
};

// A disk without room, in bytes, inodes or quota, is no file system of the wrong kind.
Finding Failed(const char* name, const absl::Status& why, const std::string& todo) {
  return {name, Verdict::kFail, std::string(why.message()),
          absl::IsResourceExhausted(why)
              ? "make room where run.folder stands: bytes, inodes or quota (see space and inodes)"
              : todo};
}

// Neither fsync nor rename: what a quota or a full disk refuses is told as that.
absl::Status WriteThere(const ProbingFolder& folder) {
  ASSIGN_OR_RETURN(const auto file, weights::DurableFile::Create(folder / "written"));
  const std::string bytes(kBytes, 'w');
  return file->Append(std::as_bytes(std::span(bytes)));
}

// A file is replaced again and again while it is read: what is read must be whole each time. Mounts
// that cache entries (FUSE, NFS) may show nothing for a moment: whoever reads a run's files looks
// again then.
Finding ProbeRename(const ProbingFolder& folder) {
  const std::string todo =
      "put run.folder on a file system with an atomic rename (no object store)";
  const std::string path = folder / "renamed";
  absl::Status written = weights::WriteFileDurably(path, std::string(kBytes, 'a'));
  if (!written.ok()) return Failed("rename", written, todo);
  std::atomic<bool> done = false;
  int renames = 0;  // the writer's until it is joined
  std::thread writer([&] {
    const absl::Time end = SystemClock().Now() + kLongest;
    for (; renames < kRenames && written.ok() && SystemClock().Now() < end; ++renames) {
      written = weights::WriteFileDurably(
          path, std::string(kBytes, static_cast<char>('a' + renames % 26)));
    }
    done = true;
  });
  int64_t reads = 0, torn = 0, absent = 0;
  do {
    const auto text = weights::ReadSmallFile(path, kBytes);
    // ESTALE is no tear: the file that was open is gone, and readers of the store look again.
    if (absl::IsUnavailable(text.status())) continue;
    ++reads;
    if (absl::IsNotFound(text.status())) {
      ++absent;
      continue;
    }
    torn +=
        !text.ok() || text->size() != kBytes || text->find_first_not_of((*text)[0]) != text->npos;
  } while (!done);
  writer.join();
  if (!written.ok()) return Failed("rename", written, todo);
  if (torn == 0 && absent > 0) {
    return {"rename", Verdict::kWarn,
            absl::StrFormat("a replaced file was not there in %d of %d reads", absent, reads),
            "mount run.folder with shorter caches of entries, if logs show many repeats"};
  }
  if (torn == 0) {
    return {"rename", Verdict::kPass, absl::StrFormat("%d replacements, %d reads", renames, reads)};
  }
  return {"rename", Verdict::kFail, absl::StrFormat("%d of %d reads were torn", torn, reads), todo};
}

Finding ProbeFsync(const ProbingFolder& folder) {
  constexpr double kSlow = 0.5;  // seconds
  const absl::Time begin = SystemClock().Now();
  const absl::Status status =
      weights::WriteFileDurably(folder / "synced", std::string(kBytes, 's'));
  const double seconds = absl::ToDoubleSeconds(SystemClock().Now() - begin);
  if (!status.ok()) return Failed("fsync", status, "put run.folder on a file system with fsync");
  const std::string saw = absl::StrFormat("%.1f ms for file and folder", seconds * 1e3);
  if (seconds < kSlow) return {"fsync", Verdict::kPass, saw};
  return {"fsync", Verdict::kWarn, saw,
          "each step commits to the ledger a few times: a faster disk"};
}

Finding ProbeVisibility(const ProbingFolder& folder) {
  constexpr int kTries = 50;
  const absl::Status written = weights::WriteFileDurably(folder / "seen", "");
  if (!written.ok()) return Failed("visibility", written, "see fsync");
  for (int i = 0; i < kTries; ++i) {
    const auto names = weights::ListFolder(folder.path());
    if (names.ok() && std::find(names->begin(), names->end(), "seen") != names->end()) {
      const std::string saw =
          absl::StrFormat("a new file is listed after %d ms, on this machine", i * 20);
      if (i < 2) return {"visibility", Verdict::kPass, saw};
      return {"visibility", Verdict::kWarn, saw, "mount with shorter attribute caching (actimeo)"};
    }
    SystemClock().SleepFor(absl::Milliseconds(20));
  }
  return {"visibility", Verdict::kFail, "a new file is not listed",
          "mount with shorter attribute caching (actimeo)"};
}

Finding ProbeClock(const ProbingFolder& folder, absl::Duration lease) {
  const std::string path = folder / "dated";
  const absl::Status written = weights::WriteFileDurably(path, "now");
  const absl::Time now = SystemClock().Now();
  struct stat file {};
  if (!written.ok() || stat(path.c_str(), &file) != 0) {
    return Failed("clock", written, "see fsync");
  }
  return JudgeClock(now, absl::TimeFromTimespec(file.st_mtim), lease);
}

}  // namespace

std::string NearestFolder(const std::string& folder) {
  std::error_code ignored;
  fs::path path = fs::absolute(folder, ignored);
  while (!fs::exists(path, ignored) && path.has_relative_path()) path = path.parent_path();
  return path.string();
}

std::vector<Finding> ProbeFolder(const RunSection& run, absl::Duration lease) {
  const std::string place = NearestFolder(run.folder);
  const ProbingFolder folder(place);
  const absl::Status written = folder.status().ok() ? WriteThere(folder) : folder.status();
  if (!written.ok()) {
    return {Failed("writable", written,
                   absl::StrFormat("make run.folder=%s writable, or set another", run.folder))};
  }
  const Finding writable{"writable", Verdict::kPass, place};
  Finding fsync = ProbeFsync(folder);
  if (fsync.verdict == Verdict::kFail) return {writable, std::move(fsync)};
  return {writable, std::move(fsync), ProbeRename(folder), ProbeVisibility(folder),
          ProbeClock(folder, lease)};
}

absl::StatusOr<Space> MeasureSpace(const std::string& folder) {
  struct statvfs fs_state {};
  if (statvfs(NearestFolder(folder).c_str(), &fs_state) != 0) {
    return weights::IoError(errno, "measure", folder);
  }
  Space space{.bytes = static_cast<int64_t>(fs_state.f_bavail * fs_state.f_frsize),
              .inodes = static_cast<int64_t>(fs_state.f_favail)};
  if (fs_state.f_files == 0) space.inodes = std::numeric_limits<int64_t>::max();
  return space;
}

}  // namespace palimpsest::tools
