#pragma once

#include <string>

#include "common/base/status.h"

// Failures of another process, with the codes that they had there.
namespace palimpsest::tools {

// "DATA_LOSS: why". A text without a known code is UNKNOWN, as it stands.
absl::Status ToldStatus(const std::string& text);

// Of the line that a daemon logs when it dies, by its "status". Any other line is UNKNOWN.
absl::Status StatusOfLine(const std::string& line);

}  // namespace palimpsest::tools
