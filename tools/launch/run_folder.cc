#include "tools/launch/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {

absl::Status TakeRunFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder + "/logs", error);
  if (error) return absl::UnavailableError(folder + "/logs: " + error.message());
  const std::string path = folder + "/launch.lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(
        absl::StrFormat("run.folder=%s: another launch or serve is at work there", folder));
  }
  std::filesystem::remove_all(folder + "/addresses", error);
  return absl::OkStatus();
}

}  // namespace palimpsest::tools
