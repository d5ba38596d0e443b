#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "tools/fsck/evidence.h"

namespace palimpsest::tools {

// What stands in `<run>/store` and `<run>/checkpoints`, with every byte compared with its digest;
// folders without a manifest belong to nobody. A live run deletes old ones: what looks damaged is
// looked at again after `settle`, and left out when it is gone by then.
absl::StatusOr<std::vector<StoredVersion>> ReadStore(const std::string& folder,
                                                     absl::Duration settle);
absl::StatusOr<std::vector<StoredCheckpoint>> ReadCheckpoints(const std::string& folder,
                                                              absl::Duration settle);
// The highest step of the checkpoints that the trainer has set aside, by their names alone; -1.
absl::StatusOr<int64_t> NewestSetAside(const std::string& folder);

}  // namespace palimpsest::tools
