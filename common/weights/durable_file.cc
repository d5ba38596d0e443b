#include "common/weights/durable_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest::weights {
namespace {

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

}  // namespace

absl::Status IoError(int error_number, std::string_view action, std::string_view path) {
  const std::string what = absl::StrFormat("%s %s", action, path);
  if (error_number == ESTALE) {
    return absl::UnavailableError(what + ": deleted by another node (ESTALE)");
  }
  return absl::ErrnoToStatus(error_number, what);
}

std::string TemporaryName() {
  static std::atomic<uint64_t> counter{0};
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  return absl::StrFormat("%s%s-%d-%d", kTemporaryPrefix, host, getpid(), counter.fetch_add(1));
}

absl::StatusOr<std::unique_ptr<DurableFile>> DurableFile::Create(const std::string& path) {
  const std::string temporary = FolderOf(path) + "/" + TemporaryName();
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return IoError(errno, "create", temporary);
  return std::unique_ptr<DurableFile>(new DurableFile(path, temporary, std::move(fd)));
}

DurableFile::~DurableFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status DurableFile::Append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(errno, "write", temporary_);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status DurableFile::Commit() {
  if (fsync(fd_.get()) != 0) return IoError(errno, "fsync", temporary_);
  if (close(fd_.Release()) != 0) return IoError(errno, "close", temporary_);  // NFS reports here
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return IoError(errno, "rename to", path_);
  temporary_.clear();
  return SyncPath(FolderOf(path_));
}

absl::Status WriteFileDurably(const std::string& path, std::string_view contents) {
  ASSIGN_OR_RETURN(const auto file, DurableFile::Create(path));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(contents))));
  return file->Commit();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return IoError(errno, "open", path);
  std::string contents;
  char buffer[16384];
  while (true) {
    const ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(errno, "read", path);
    if (n == 0) return contents;
    contents.append(buffer, static_cast<size_t>(n));
    if (static_cast<int64_t>(contents.size()) > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%s has more than %d bytes", path, max_bytes));
    }
  }
}

absl::Status SyncPath(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return IoError(errno, "open", path);
  if (fsync(fd.get()) != 0) return IoError(errno, "fsync", path);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) {
  const std::unique_ptr<DIR, CloseFolder> folder(opendir(path.c_str()));
  if (folder == nullptr) return IoError(errno, "open folder", path);
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) {
      if (errno != 0) return IoError(errno, "list", path);
      break;
    }
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace palimpsest::weights
