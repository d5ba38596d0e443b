#include "common/base/unique_fd.h"
#include "common/weights/manifest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <charconv>
#include <limits>
#include <memory>

#include "absl/strings/str_format.h"
#include "common/weights/checked_json.h"
#include "common/weights/durable_file.h"

namespace palimpsest::weights {
namespace {

constexpr size_t kReadBytes = 1 << 20;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

std::string Hex(XXH128_hash_t hash) {
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

bool IsDigest(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

absl::Status Malformed(const char* key) {
  return absl::DataLossError(absl::StrFormat("manifest: '%s' is missing or malformed", key));
}

absl::StatusOr<int64_t> ReadInteger(const Json& json, const char* key, int64_t low) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_unsigned()) return Malformed(key);
  const auto value = found->get<uint64_t>();
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
      static_cast<int64_t>(value) < low) {
    return Malformed(key);
  }
  return static_cast<int64_t>(value);
}

absl::StatusOr<std::string> ReadText(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) return Malformed(key);
  return found->get<std::string>();
}

absl::StatusOr<std::vector<ManifestFile>> ReadFiles(const Json& json) {
  const auto found = json.find("files");
  if (found == json.end() || !found->is_array() || found->empty()) return Malformed("files");
  std::vector<ManifestFile> files;
  for (const Json& item : *found) {
    if (!item.is_object()) return Malformed("files");
    ManifestFile file;
    ASSIGN_OR_RETURN(file.name, ReadText(item, "name"));
    ASSIGN_OR_RETURN(file.size, ReadInteger(item, "size", 0));
    ASSIGN_OR_RETURN(file.xxh3, ReadText(item, "xxh3_128"));
    if (!IsVersionFileName(file.name)) return Malformed("files.name");
    if (!IsDigest(file.xxh3)) return Malformed("files.xxh3_128");
    if (!files.empty() && files.back().name >= file.name) return Malformed("files");
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

absl::StatusOr<std::string> ToJson(const Manifest& manifest) {
  Json files = Json::array();
  for (const ManifestFile& file : manifest.files) {
    if (!IsUtf8(file.name)) return absl::InvalidArgumentError("file name is not UTF-8");
    files.push_back({{"name", file.name}, {"size", file.size}, {"xxh3_128", file.xxh3}});
  }
  if (!IsUtf8(manifest.run)) return absl::InvalidArgumentError("run name is not UTF-8");
  const Json json = {
      {"format", kManifestFormat},
      {"version", manifest.version.value()},
      {"parent_version", manifest.parent ? Json(manifest.parent->value()) : Json(nullptr)},
      {"run", manifest.run},
      {"attempt", manifest.attempt},
      {"source_step", manifest.source_step},
      {"created", absl::FormatTime(absl::RFC3339_full, manifest.created, absl::UTCTimeZone())},
      {"files", std::move(files)}};
  return json.dump(2) + "\n";
}

absl::StatusOr<Manifest> ManifestFromJson(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text));
  ASSIGN_OR_RETURN(const int64_t format, ReadInteger(json, "format", 1));
  if (format != kManifestFormat) {
    return absl::FailedPreconditionError(
        absl::StrFormat("manifest: format %d, this build reads %d", format, kManifestFormat));
  }
  Manifest manifest;
  ASSIGN_OR_RETURN(const int64_t version, ReadInteger(json, "version", 1));
  manifest.version = PolicyVersion(version);
  const auto parent = json.find("parent_version");
  if (parent == json.end()) return Malformed("parent_version");
  if (!parent->is_null()) {
    ASSIGN_OR_RETURN(const int64_t number, ReadInteger(json, "parent_version", 1));
    manifest.parent = PolicyVersion(number);
  }
  ASSIGN_OR_RETURN(manifest.run, ReadText(json, "run"));
  ASSIGN_OR_RETURN(manifest.attempt, ReadInteger(json, "attempt", 0));
  ASSIGN_OR_RETURN(manifest.source_step, ReadInteger(json, "source_step", 0));
  ASSIGN_OR_RETURN(const std::string created, ReadText(json, "created"));
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, created, &manifest.created, &error)) {
    return Malformed("created");
  }
  ASSIGN_OR_RETURN(manifest.files, ReadFiles(json));
  return manifest;
}

std::string FolderName(PolicyVersion version) { return absl::StrFormat("v%08d", version.value()); }

std::optional<PolicyVersion> VersionFromFolderName(std::string_view name) {
  if (!name.starts_with('v')) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + 1, end, number);
  if (error != std::errc() || stop != end || number < 1) return std::nullopt;
  const PolicyVersion version(number);
  if (FolderName(version) != name) return std::nullopt;
  return version;
}

bool IsVersionFileName(std::string_view name) {
  return !name.empty() && !name.starts_with('.') && name != kManifestName &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

absl::StatusOr<ManifestFile> DigestFile(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (fd.get() < 0) return IoError(errno, "open", path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return IoError(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(path + " is not a regular file");
  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  const auto buffer = std::make_unique<char[]>(kReadBytes);
  ManifestFile file{.name = name, .size = 0, .xxh3 = {}};
  while (true) {
    const ssize_t n = read(fd.get(), buffer.get(), kReadBytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return IoError(errno, "read", path);
    if (n == 0) break;
    XXH3_128bits_update(state.get(), buffer.get(), static_cast<size_t>(n));
    file.size += n;
  }
  file.xxh3 = Hex(XXH3_128bits_digest(state.get()));
  return file;
}

}  // namespace palimpsest::weights
