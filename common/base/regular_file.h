#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace palimpsest {

// The whole of a file from somewhere else, of at most `most` bytes. NOT_FOUND: it cannot be opened.
// FAILED_PRECONDITION: it is larger, or no plain file: a pipe or a device is refused, not waited
// for. Messages name the path.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, int64_t most);

}  // namespace palimpsest
