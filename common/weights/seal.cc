#include "common/weights/seal.h"

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "common/weights/manifest.h"

namespace palimpsest::weights {
namespace {

constexpr int64_t kMaxSeal = 64;  // bytes; it has 32

std::string PathOfSeal(const std::string& folder, const std::string& name) {
  return absl::StrFormat("%s/%s.xxh3", folder, name);
}

}  // namespace

absl::Status SealFile(const std::string& folder, const std::string& name) {
  ASSIGN_OR_RETURN(const ManifestFile written, DigestFile(folder, name));
  return WriteFileDurably(PathOfSeal(folder, name), written.xxh3);
}

absl::Status CheckSeal(const std::string& folder, const std::string& name) {
  const absl::StatusOr<std::string> seal = ReadSmallFile(PathOfSeal(folder, name), kMaxSeal);
  if (absl::IsNotFound(seal.status())) return absl::OkStatus();
  RETURN_IF_ERROR(seal.status());
  ASSIGN_OR_RETURN(const ManifestFile now, DigestFile(folder, name));
  if (now.xxh3 == *seal) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("%s/%s is not what was written", folder, name));
}

}  // namespace palimpsest::weights
