#pragma once

#include <string>

#include "common/base/status.h"

namespace palimpsest::tools {

// Makes the folder of a run and its logs/, and takes it for this process until that ends: two would
// fight over its addresses. Addresses of an earlier life, which would only mislead, are removed.
absl::Status TakeRunFolder(const std::string& folder);

}  // namespace palimpsest::tools
