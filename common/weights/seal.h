#pragma once

#include <string>

#include "common/base/status.h"

// The digest of a file in a file beside it, `<name>.xxh3`: for a file that no manifest lists.
namespace palimpsest::weights {

absl::Status SealFile(const std::string& folder, const std::string& name);

// kDataLoss when the file is not what was sealed. A file without a seal passes: it is of a time
// before seals.
absl::Status CheckSeal(const std::string& folder, const std::string& name);

}  // namespace palimpsest::weights
