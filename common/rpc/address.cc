#include "common/rpc/address.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/rpc/config.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
constexpr std::string_view kMetricsKey = "metrics ", kPidKey = "pid ";

absl::Status ErrnoStatus(std::string_view what, std::string_view path) {
  return absl::ErrnoToStatus(errno, absl::StrFormat("%s %s", what, path));
}

std::string Folder(const std::string& run) { return run + "/addresses"; }

absl::StatusOr<std::string> FileName(std::string_view role, int rank) {
  const auto good = [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; };
  if (role.empty() || !std::all_of(role.begin(), role.end(), good) || rank < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("role=\"%s\" rank=%d cannot name an address file", role, rank));
  }
  return absl::StrFormat("%s-%d", role, rank);
}

absl::Status WriteAndSync(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus("open", path);
  absl::Status status;
  const ssize_t written = write(fd, text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size())) status = ErrnoStatus("write", path);
  if (status.ok() && fsync(fd) != 0) status = ErrnoStatus("fsync", path);
  close(fd);
  return status;
}

bool IsListed(const std::string& folder, const std::string& name) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return false;
  bool found = false;
  while (const dirent* entry = readdir(dir)) found = found || name == entry->d_name;
  closedir(dir);
  return found;
}

// What stands behind `key` in the next line of `text`, which goes; nothing without such a line.
std::optional<std::string_view> TakeLine(std::string_view key, std::string_view& text) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos || !text.starts_with(key)) return std::nullopt;
  const std::string_view value = text.substr(key.size(), end - key.size());
  text.remove_prefix(end + 1);
  return value;
}

// "host:port\nmetrics host:port\npid 123\n"; the line of the metrics may be absent.
absl::StatusOr<Address> ParseAddress(std::string_view text, std::string_view path) {
  Address address;
  const auto host_port = TakeLine("", text), metrics = TakeLine(kMetricsKey, text);
  const auto pid = TakeLine(kPidKey, text);
  if (host_port && !host_port->empty() && pid && text.empty()) {
    const char* const end = pid->data() + pid->size();
    const auto [rest, error] = std::from_chars(pid->data(), end, address.pid);
    address.host_port = std::string(*host_port);
    address.metrics = std::string(metrics.value_or(""));
    if (rest == end && error == std::errc() && address.pid > 0) return address;
  }
  return absl::DataLossError(absl::StrFormat("%s holds no address", path));
}

std::string TextOf(const Address& address) {
  std::string text = address.host_port + "\n";
  if (!address.metrics.empty()) text += absl::StrFormat("%s%s\n", kMetricsKey, address.metrics);
  return text + absl::StrFormat("%s%d\n", kPidKey, address.pid);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open", path);
  std::array<char, 1024> buffer;
  const ssize_t n = read(fd, buffer.data(), buffer.size());
  const absl::Status status = n < 0 ? ErrnoStatus("read", path) : absl::OkStatus();
  close(fd);
  RETURN_IF_ERROR(status);
  return std::string(buffer.data(), static_cast<size_t>(n));
}

}  // namespace

absl::StatusOr<Address> OwnAddress(const std::string& rpc, const std::string& host, int port) {
  Address address{.host_port = rpc, .pid = getpid()};
  ASSIGN_OR_RETURN(const HostPort reached, ParseHostPort("address", rpc));
  const bool wildcard = host == "0.0.0.0" || host == "::";
  address.metrics = JoinHostPort(wildcard ? reached.host : host, port);
  return address;
}

absl::Status WriteAddress(const std::string& run, std::string_view role, int rank,
                          const Address& address) {
  ASSIGN_OR_RETURN(const std::string name, FileName(role, rank));
  const std::string text = TextOf(address);
  const std::string path = Folder(run) + "/" + name;
  RETURN_IF_ERROR(ParseAddress(text, path).status());
  std::error_code error;
  std::filesystem::create_directories(Folder(run), error);
  if (error) {
    return absl::UnavailableError(absl::StrFormat("create %s: %s", Folder(run), error.message()));
  }
  // A leading dot and the pid: no reader takes it for an address, no other writer shares it.
  const std::string temporary = absl::StrFormat("%s/.%s.%d", Folder(run), name, address.pid);
  RETURN_IF_ERROR(WriteAndSync(temporary, text));
  if (std::rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus("rename to", path);
  return absl::OkStatus();
}

absl::StatusOr<Address> ReadAddress(const std::string& run, std::string_view role, int rank) {
  ASSIGN_OR_RETURN(const std::string name, FileName(role, rank));
  const std::string path = Folder(run) + "/" + name;
  if (!IsListed(Folder(run), name)) {
    return absl::NotFoundError(absl::StrFormat("%s is not there yet", path));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  return ParseAddress(text, path);
}

absl::Status RemoveAddress(const std::string& run, std::string_view role, int rank, int64_t pid) {
  const absl::StatusOr<Address> present = ReadAddress(run, role, rank);
  if (absl::IsNotFound(present.status())) return absl::OkStatus();
  RETURN_IF_ERROR(present.status());
  if (present->pid != pid) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string name, FileName(role, rank));
  const std::string path = Folder(run) + "/" + name;
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus("remove", path);
  return absl::OkStatus();
}

absl::StatusOr<Address> WaitForAddress(const std::string& run, std::string_view role, int rank,
                                       absl::Time deadline, Clock& clock) {
  while (true) {
    absl::StatusOr<Address> address = ReadAddress(run, role, rank);
    if (!absl::IsNotFound(address.status())) return address;
    const absl::Duration left = deadline - clock.Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrFormat("%s", address.status().message()));
    }
    clock.SleepFor(std::min(left, kPoll));
  }
}

}  // namespace palimpsest
