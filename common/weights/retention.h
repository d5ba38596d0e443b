#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"

// Who still needs which version: leases, and the pure decision of what may go.
namespace palimpsest::weights {

inline constexpr char kAcksFolder[] = "acks";

// What one reader last said: `<store>/acks/<reader>.json`. It is alive until `expires`.
struct Lease {
  std::string reader;
  std::optional<PolicyVersion> version;  // acknowledged, being served; nullopt: none yet
  absl::Time expires;
  bool operator==(const Lease&) const = default;
};
std::string ToJson(const Lease& lease);
absl::StatusOr<Lease> LeaseFromJson(std::string_view text);  // kDataLoss
// 1 to 200 of [A-Za-z0-9._-], not beginning with a dot: it becomes a file name.
absl::Status ValidateReaderName(std::string_view reader);

// The versions to delete, ascending. Kept are the newest `keep_last` (at least 2 are, whatever is
// asked), and from the oldest version that a live reader serves upwards everything: that reader may
// be staging any of them. A live reader without a version keeps all. A lease with expires <= now is
// dead and keeps nothing. `versions`: complete ones, ascending.
std::vector<PolicyVersion> VersionsToDelete(std::span<const PolicyVersion> versions,
                                            std::span<const Lease> leases, int keep_last,
                                            absl::Time now);

}  // namespace palimpsest::weights
