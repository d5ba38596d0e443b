#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "common/weights/store.h"

namespace palimpsest::weights {
namespace {

constexpr int64_t kMaxLease = 1 << 16;  // bytes

// What is gone or not there yet is not an error of the store: another node is at work.
absl::Status Unseen(const absl::Status& status) {
  if (!absl::IsNotFound(status)) return status;
  return absl::UnavailableError(status.message());
}

bool Holds(const std::vector<std::string>& sorted, const std::string& name) {
  return std::binary_search(sorted.begin(), sorted.end(), name);
}

}  // namespace

absl::Status VerifyFiles(const std::string& folder, const std::vector<ManifestFile>& files) {
  auto listed = ListFolder(folder);
  if (!listed.ok()) return Unseen(listed.status());
  size_t expected = 0;
  for (const ManifestFile& file : files) {
    if (!Holds(*listed, file.name)) {
      return absl::UnavailableError(absl::StrFormat("%s/%s is not visible", folder, file.name));
    }
    ++expected;
  }
  const auto ours = std::count_if(listed->begin(), listed->end(), IsVersionFileName);
  if (static_cast<size_t>(ours) != expected) {
    return absl::DataLossError(
        absl::StrFormat("%s holds %d files, its manifest lists %d", folder, ours, expected));
  }
  for (const ManifestFile& file : files) {
    const auto found = DigestFile(folder, file.name);
    if (!found.ok()) return Unseen(found.status());
    if (*found != file) {
      return absl::DataLossError(
          absl::StrFormat("%s/%s has %d bytes with digest %s, its manifest says %d and %s", folder,
                          file.name, found->size, found->xxh3, file.size, file.xxh3));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Lease>> ReadLeases(const std::string& store_folder) {
  const std::string folder = store_folder + "/" + kAcksFolder;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(folder));
  std::vector<Lease> leases;
  for (const std::string& name : names) {
    if (name.starts_with('.')) continue;
    const std::string path = folder + "/" + name;
    const auto text = ReadSmallFile(path, kMaxLease);
    if (absl::IsNotFound(text.status())) continue;  // released since the listing
    if (!text.ok()) return text.status();
    const auto lease = LeaseFromJson(*text);
    if (!lease.ok()) {
      return absl::DataLossError(path + ": " + std::string(lease.status().message()));
    }
    leases.push_back(*lease);
  }
  return leases;
}

absl::StatusOr<std::unique_ptr<StoreReader>> StoreReader::Open(std::string store_folder,
                                                               Options options, Clock& clock) {
  RETURN_IF_ERROR(ValidateReaderName(options.reader));
  if (options.lease <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("lease " + absl::FormatDuration(options.lease) +
                                      " is not > 0");
  }
  return std::unique_ptr<StoreReader>(
      new StoreReader(std::move(store_folder), std::move(options), clock));
}

absl::StatusOr<std::optional<PolicyVersion>> StoreReader::Poll() const {
  const auto names = ListFolder(store_);
  if (!names.ok()) return Unseen(names.status());
  std::vector<PolicyVersion> versions;
  for (const std::string& name : *names) {
    if (const auto version = VersionFromFolderName(name)) versions.push_back(*version);
  }
  std::sort(versions.rbegin(), versions.rend());
  for (const PolicyVersion version : versions) {
    const auto files = ListFolder(store_ + "/" + FolderName(version));
    if (files.ok() && Holds(*files, kManifestName)) return version;
    const absl::Status status = files.ok() ? absl::OkStatus() : Unseen(files.status());
    if (!status.ok() && !absl::IsUnavailable(status)) return status;
  }
  return std::nullopt;
}

absl::StatusOr<VersionInfo> StoreReader::Verify(PolicyVersion version) const {
  const std::string name = FolderName(version);
  VersionInfo info{.folder = store_ + "/" + name, .manifest = {}};
  const auto versions = ListFolder(store_);
  if (!versions.ok()) return Unseen(versions.status());
  if (!Holds(*versions, name)) return absl::UnavailableError(info.folder + " is not visible");
  const auto files = ListFolder(info.folder);
  if (!files.ok()) return Unseen(files.status());
  if (!Holds(*files, kManifestName)) {
    return absl::UnavailableError(info.folder + " has no manifest yet");
  }
  const auto text = ReadSmallFile(info.folder + "/" + kManifestName, kMaxManifest);
  if (!text.ok()) return Unseen(text.status());
  auto manifest = ManifestFromJson(*text);
  if (!manifest.ok()) {
    return absl::Status(manifest.status().code(),
                        info.folder + ": " + std::string(manifest.status().message()));
  }
  if (manifest->version != version) {
    return absl::DataLossError(
        absl::StrFormat("%s: manifest is of version %d", info.folder, manifest->version.value()));
  }
  RETURN_IF_ERROR(VerifyFiles(info.folder, manifest->files));
  info.manifest = *std::move(manifest);
  return info;
}

std::string StoreReader::LeasePath() const {
  return store_ + "/" + kAcksFolder + "/" + options_.reader + ".json";
}

absl::Status StoreReader::Acknowledge(PolicyVersion version) {
  acknowledged_ = version;
  return RenewLease();
}

absl::Status StoreReader::RenewLease() {
  std::error_code error;
  std::filesystem::create_directories(store_ + "/" + kAcksFolder, error);
  if (error) return IoError(error.value(), "create", store_ + "/" + kAcksFolder);
  const Lease lease{options_.reader, acknowledged_, clock_.Now() + options_.lease};
  return WriteFileDurably(LeasePath(), ToJson(lease));
}

absl::Status StoreReader::Release() {
  acknowledged_.reset();
  if (unlink(LeasePath().c_str()) != 0 && errno != ENOENT) {
    return IoError(errno, "delete", LeasePath());
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::weights
