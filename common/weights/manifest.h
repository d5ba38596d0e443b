#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"

// What a version says of itself: `<store>/v00000042/manifest.json`, written last.
namespace palimpsest::weights {

inline constexpr int kManifestFormat = 1;
inline constexpr char kManifestName[] = "manifest.json";
inline constexpr int64_t kMaxManifest = 16 << 20;  // bytes

struct ManifestFile {
  std::string name;  // plain, no folder
  int64_t size = 0;  // bytes
  std::string xxh3;  // XXH3-128, canonical (high half first), 32 lower-case digits
  bool operator==(const ManifestFile&) const = default;
};

struct Manifest {
  PolicyVersion version;                // >= 1
  std::optional<PolicyVersion> parent;  // the weights that the step started from, if in the store
  std::string run;
  int64_t attempt = 0;
  int64_t source_step = 0;  // of the trainer
  absl::Time created;
  std::vector<ManifestFile> files;  // ascending by name
  bool operator==(const Manifest&) const = default;
};

// kInvalidArgument when a text is not UTF-8.
absl::StatusOr<std::string> ToJson(const Manifest& manifest);
// kDataLoss for a text that is no manifest, kFailedPrecondition for one of another format.
absl::StatusOr<Manifest> ManifestFromJson(std::string_view text);

// "v00000042": at least eight digits. nullopt for any other name and for numbers below 1.
std::string FolderName(PolicyVersion version);
std::optional<PolicyVersion> VersionFromFolderName(std::string_view name);

// Whether a version may hold a file of this name: no folder part, not hidden, not the manifest.
bool IsVersionFileName(std::string_view name);

// Size and digest of a regular file, read with read(2): a mapped file that another node cuts would
// end the process. Links are refused.
absl::StatusOr<ManifestFile> DigestFile(const std::string& folder, const std::string& name);

}  // namespace palimpsest::weights
