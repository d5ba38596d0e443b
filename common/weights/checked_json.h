#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/base/status.h"

// JSON from files that nobody vouches for. Only .cc files of this room include it.
namespace palimpsest::weights {

using Json = nlohmann::json;

// One JSON object; kDataLoss for anything else, for a key given twice at any depth, and for nesting
// deeper than 16.
absl::StatusOr<Json> ParseObject(std::string_view text);

// Whether Json can hold the text (its dump would throw otherwise).
bool IsUtf8(std::string_view text);

}  // namespace palimpsest::weights
