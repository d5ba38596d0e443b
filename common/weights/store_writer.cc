#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "common/weights/store.h"

namespace palimpsest::weights {
namespace {

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  return error ? IoError(error.value(), "create", path) : absl::OkStatus();
}

absl::Status DeleteTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? IoError(error.value(), "delete", path) : absl::OkStatus();
}

// Deletes the folder when it goes out of scope, unless it was renamed before.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  ~TemporaryFolder() {
    std::error_code ignored;  // what stays is deleted by the next writer
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The weights that a step started from: the newest version of an earlier step.
std::optional<PolicyVersion> ParentOf(int64_t source_step, const std::vector<Manifest>& complete) {
  for (auto m = complete.rbegin(); m != complete.rend(); ++m) {
    if (m->source_step < source_step) return m->version;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreWriter>> StoreWriter::Open(std::string store_folder,
                                                               Options options, Clock& clock) {
  if (options.run.empty() || options.attempt < 0 || options.keep_last < 2) {
    return absl::InvalidArgumentError(
        absl::StrFormat("run '%s' must not be empty, attempt %d not below 0, keep_last %d not "
                        "below 2",
                        options.run, options.attempt, options.keep_last));
  }
  RETURN_IF_ERROR(MakeFolder(store_folder + "/" + kAcksFolder));
  std::unique_ptr<StoreWriter> writer(
      new StoreWriter(std::move(store_folder), std::move(options), clock));
  ASSIGN_OR_RETURN(const Census census, writer->Count());
  RETURN_IF_ERROR(writer->DeleteAbandoned(census));
  return writer;
}

absl::StatusOr<StoreWriter::Census> StoreWriter::Count() const {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(store_));
  Census census;
  for (const std::string& name : names) {
    if (name.starts_with(kTemporaryPrefix)) census.abandoned.push_back(name);
    const auto version = VersionFromFolderName(name);
    if (!version) continue;
    census.highest = std::max(census.highest, *version);
    const std::string path = store_ + "/" + name + "/" + kManifestName;
    const auto text = ReadSmallFile(path, kMaxManifest);
    if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
    auto manifest = text.ok() ? ManifestFromJson(*text) : text.status();
    if (absl::IsFailedPrecondition(manifest.status())) {
      return absl::FailedPreconditionError(path + ": " + std::string(manifest.status().message()));
    }
    if (!manifest.ok() || manifest->version != *version) {
      census.abandoned.push_back(name);
      continue;
    }
    if (manifest->run != options_.run) {
      return absl::FailedPreconditionError(absl::StrFormat("%s is of run '%s', this is run '%s'",
                                                           path, manifest->run, options_.run));
    }
    census.complete.push_back(*std::move(manifest));
  }
  std::sort(census.complete.begin(), census.complete.end(),
            [](const Manifest& a, const Manifest& b) { return a.version < b.version; });
  return census;
}

absl::Status StoreWriter::DeleteAbandoned(const Census& census) const {
  for (const std::string& name : census.abandoned) {
    const std::string path = store_ + "/" + name;
    RETURN_IF_ERROR(DeleteTree(path));
    // The highest number stays taken, by an empty folder, until a higher one is there.
    if (VersionFromFolderName(name) == census.highest) RETURN_IF_ERROR(MakeFolder(path));
  }
  return census.abandoned.empty() ? absl::OkStatus() : SyncPath(store_);
}

absl::StatusOr<std::vector<ManifestFile>> StoreWriter::SyncAndDigest(
    const std::string& folder) const {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolder(folder));
  if (names.empty()) return absl::InvalidArgumentError("a version without files");
  std::vector<ManifestFile> files;
  for (const std::string& name : names) {
    if (!IsVersionFileName(name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a version cannot hold a file named '%s'", name));
    }
    ASSIGN_OR_RETURN(ManifestFile file, DigestFile(folder, name));
    RETURN_IF_ERROR(SyncPath(folder + "/" + name));
    files.push_back(std::move(file));
  }
  RETURN_IF_ERROR(SyncPath(folder));
  return files;
}

bool StoreWriter::IsIntact(const Manifest& manifest) const {
  return VerifyFiles(store_ + "/" + FolderName(manifest.version), manifest.files).ok();
}

absl::StatusOr<PolicyVersion> StoreWriter::Publish(
    int64_t source_step, const std::function<absl::Status(const std::string& folder)>& fill) {
  if (source_step < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("source_step %d is below 0", source_step));
  }
  {
    ASSIGN_OR_RETURN(const Census before, Count());
    RETURN_IF_ERROR(DeleteAbandoned(before));
  }
  const TemporaryFolder temporary(store_ + "/" + TemporaryName());
  RETURN_IF_ERROR(MakeFolder(temporary.path()));
  RETURN_IF_ERROR(fill(temporary.path()));
  ASSIGN_OR_RETURN(std::vector<ManifestFile> files, SyncAndDigest(temporary.path()));
  ASSIGN_OR_RETURN(const Census census, Count());
  if (!census.complete.empty()) {
    const Manifest& newest = census.complete.back();
    if (newest.source_step == source_step && newest.files == files && IsIntact(newest)) {
      return newest.version;
    }
  }
  return Commit(census, temporary.path(), source_step, std::move(files));
}

absl::StatusOr<PolicyVersion> StoreWriter::Commit(const Census& census,
                                                  const std::string& temporary, int64_t source_step,
                                                  std::vector<ManifestFile> files) const {
  const PolicyVersion version(census.highest.value() + 1);
  const Manifest manifest{.version = version,
                          .parent = ParentOf(source_step, census.complete),
                          .run = options_.run,
                          .attempt = options_.attempt,
                          .source_step = source_step,
                          .created = clock_.Now(),
                          .files = std::move(files)};
  ASSIGN_OR_RETURN(const std::string text, ToJson(manifest));
  const std::string folder = store_ + "/" + FolderName(version);
  if (rename(temporary.c_str(), folder.c_str()) != 0) return IoError(errno, "rename to", folder);
  RETURN_IF_ERROR(SyncPath(store_));
  RETURN_IF_ERROR(WriteFileDurably(folder + "/" + kManifestName, text));
  return version;
}

absl::StatusOr<std::vector<PolicyVersion>> StoreWriter::CollectGarbage() {
  ASSIGN_OR_RETURN(const Census census, Count());
  ASSIGN_OR_RETURN(const std::vector<Lease> leases, ReadLeases(store_));
  std::vector<PolicyVersion> versions;
  for (const Manifest& manifest : census.complete) versions.push_back(manifest.version);
  std::vector<PolicyVersion> doomed =
      VersionsToDelete(versions, leases, options_.keep_last, clock_.Now());
  for (const PolicyVersion version : doomed) {
    const std::string folder = store_ + "/" + FolderName(version);
    // The manifest goes first: a crash in between leaves a folder that belongs to nobody.
    RETURN_IF_ERROR(DeleteTree(folder + "/" + kManifestName));
    RETURN_IF_ERROR(SyncPath(folder));
    RETURN_IF_ERROR(DeleteTree(folder));
  }
  return doomed;
}

}  // namespace palimpsest::weights
