#include "common/weights/retention.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/weights/checked_json.h"

namespace palimpsest::weights {
namespace {

constexpr size_t kMinKept = 2;
constexpr size_t kMaxReaderName = 200;
constexpr std::string_view kReaderLetters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

}  // namespace

std::string ToJson(const Lease& lease) {
  const Json json = {
      {"reader", lease.reader},
      {"version", lease.version ? Json(lease.version->value()) : Json(nullptr)},
      {"expires", absl::FormatTime(absl::RFC3339_full, lease.expires, absl::UTCTimeZone())}};
  return json.dump() + "\n";
}

absl::StatusOr<Lease> LeaseFromJson(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text));
  const auto reader = json.find("reader");
  const auto version = json.find("version");
  const auto expires = json.find("expires");
  if (reader == json.end() || !reader->is_string() || version == json.end() ||
      !(version->is_null() || version->is_number_unsigned()) || expires == json.end() ||
      !expires->is_string()) {
    return absl::DataLossError("lease is not {reader, version, expires}");
  }
  Lease lease;
  lease.reader = reader->get<std::string>();
  RETURN_IF_ERROR(ValidateReaderName(lease.reader));
  if (!version->is_null()) {
    const auto number = version->get<uint64_t>();
    if (number < 1 || number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::DataLossError(absl::StrFormat("lease: version %d is out of range", number));
    }
    lease.version = PolicyVersion(static_cast<int64_t>(number));
  }
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, expires->get_ref<const std::string&>(), &lease.expires,
                       &error)) {
    return absl::DataLossError("lease: expires: " + error);
  }
  return lease;
}

absl::Status ValidateReaderName(std::string_view reader) {
  if (reader.empty() || reader.size() > kMaxReaderName || reader.starts_with('.') ||
      reader.find_first_not_of(kReaderLetters) != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("reader '%s' is not 1 to %d of [A-Za-z0-9._-] without a leading dot",
                        reader, kMaxReaderName));
  }
  return absl::OkStatus();
}

std::vector<PolicyVersion> VersionsToDelete(std::span<const PolicyVersion> versions,
                                            std::span<const Lease> leases, int keep_last,
                                            absl::Time now) {
  const size_t kept = std::max(kMinKept, static_cast<size_t>(std::max(keep_last, 0)));
  if (versions.size() <= kept) return {};
  PolicyVersion bound = versions[versions.size() - kept];  // the oldest that must stay
  for (const Lease& lease : leases) {
    if (lease.expires <= now) continue;
    bound = std::min(bound, lease.version.value_or(versions.front()));
  }
  std::vector<PolicyVersion> doomed;
  for (const PolicyVersion version : versions) {
    if (version < bound) doomed.push_back(version);
  }
  return doomed;
}

}  // namespace palimpsest::weights
