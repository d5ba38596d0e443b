#include "common/wire/field.h"

#include <cmath>

namespace palimpsest::wire {

std::string Field(std::string_view path, std::string_view name) {
  return absl::StrFormat("%s.%s", path, name);
}

std::string Item(std::string_view path, int index) {
  return absl::StrFormat("%s[%d]", path, index);
}

absl::Status Refused(std::string_view path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, what));
}

absl::Status Under(std::string_view path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrFormat("%s.%s", path, std::string(status.message())));
}

absl::Status About(std::string_view path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrFormat("%s: %s", path, std::string(status.message())));
}

absl::Status CheckAmount(std::string_view path, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return Refused(path, absl::StrFormat("%g is not a finite number >= 0", value));
}

}  // namespace palimpsest::wire
