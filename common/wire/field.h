#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

// How a refusal names its place: "rollout.events[2].kept".
namespace palimpsest::wire {

std::string Field(std::string_view path, std::string_view name);
std::string Item(std::string_view path, int index);

// INVALID_ARGUMENT "<path>: <what>".
absl::Status Refused(std::string_view path, std::string_view what);

// "<path>.<message>" for a check that names its own fields first, "<path>: <message>" for one that
// does not begin with a field of the message.
absl::Status Under(std::string_view path, const absl::Status& status);
absl::Status About(std::string_view path, const absl::Status& status);

// The number is finite and >= 0.
absl::Status CheckAmount(std::string_view path, double value);

}  // namespace palimpsest::wire
