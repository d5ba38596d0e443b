#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/config/node.h"

namespace palimpsest {

// Readers of one value. Only one spelling of each thing is taken: a quoted number, `yes`, 010, 1.5
// for an integer, .inf or a time without its unit are errors that name `path` and the place.

absl::StatusOr<bool> ReadBool(const Node& node, std::string_view path);
absl::StatusOr<int64_t> ReadInt(const Node& node, std::string_view path, int64_t min, int64_t max);
absl::StatusOr<uint64_t> ReadUint(const Node& node, std::string_view path, uint64_t max);
absl::StatusOr<double> ReadDouble(const Node& node, std::string_view path);
absl::StatusOr<float> ReadFloat(const Node& node, std::string_view path);
absl::StatusOr<std::string> ReadString(const Node& node, std::string_view path);
absl::StatusOr<absl::Duration> ReadDuration(const Node& node, std::string_view path);  // "2s"
absl::StatusOr<int64_t> ReadBytes(const Node& node, std::string_view path);  // "64MiB", >= 0

std::string WriteDouble(double value);  // shortest text that reads back to the same value
std::string WriteFloat(float value);
std::string WriteBytes(int64_t bytes);  // in the largest unit that divides it

// "a map", "a list", ... for messages.
std::string_view KindName(const Node& node);

}  // namespace palimpsest
