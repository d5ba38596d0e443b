#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/base/unique_fd.h"

// Files that are there whole or not at all, on local disks and on shared file systems alike.
// Errors keep their errno's meaning (ENOENT is kNotFound), except ESTALE: another node deleted what
// we hold, which is kUnavailable. Messages name the path.
namespace palimpsest::weights {

// Prefix of names that are being written. Listings that look for results skip them.
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";

absl::Status IoError(int error_number, std::string_view action, std::string_view path);

// A name of the same folder that no other process or thread uses: ".tmp-<host>-<pid>-<n>".
std::string TemporaryName();

// One file being written under a temporary name beside `path`; dropped unless committed.
class DurableFile {
 public:
  static absl::StatusOr<std::unique_ptr<DurableFile>> Create(const std::string& path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  absl::Status Append(std::span<const std::byte> bytes);
  // fsync, close, rename over `path`, fsync of the folder. Once.
  absl::Status Commit();

 private:
  DurableFile(std::string path, std::string temporary, UniqueFd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

  std::string path_;
  std::string temporary_;  // empty once renamed
  UniqueFd fd_;
};

// Replaces `path` atomically; after it returns ok the contents survive a power cut.
absl::Status WriteFileDurably(const std::string& path, std::string_view contents);

// Whole file; kResourceExhausted when it has more than `max_bytes`. A pipe is not waited for.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes);

// fsync of a file, or of a folder's entries.
absl::Status SyncPath(const std::string& path);

// Names in a folder by a fresh opendir, sorted, without "." and "..". A fresh open makes network
// file systems revalidate; a held handle, or a stat of a name no listing has shown, does not.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path);

}  // namespace palimpsest::weights
