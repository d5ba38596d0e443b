#include "common/base/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "common/base/unique_fd.h"

namespace palimpsest {

absl::StatusOr<std::string> ReadRegularFile(const std::string& path, int64_t most) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0)
    return absl::NotFoundError(absl::StrFormat("%s: cannot be opened: %s", path, strerror(errno)));
  const auto refuse = [&](const std::string& why) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: %s", path, why));
  };
  struct stat about = {};
  if (fstat(fd.get(), &about) != 0 || !S_ISREG(about.st_mode)) return refuse("is no plain file");
  if (about.st_size > most)
    return refuse(absl::StrFormat("has %d bytes, at most %d are read", about.st_size, most));
  std::string text(static_cast<size_t>(about.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = read(fd.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return refuse(strerror(errno));
    if (count == 0) break;  // it has become shorter
    done += static_cast<size_t>(count);
  }
  text.resize(done);
  return text;
}

}  // namespace palimpsest
