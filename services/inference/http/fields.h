#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace palimpsest::inference {

// The fields of one JSON object, read strictly: a value of another kind and a field that nobody
// asked for are refused by name; null is absent. The first refusal waits for Finish, so that
// reading needs no check in between.
class Fields {
 public:
  // `value` outlives it. `path` stands before the names: "messages[2]"; empty for the body.
  Fields(const nlohmann::json& value, std::string path);

  std::optional<bool> Flag(std::string_view name);
  std::optional<int32_t> Whole(std::string_view name);
  std::optional<uint64_t> Unsigned(std::string_view name);
  std::optional<double> Number(std::string_view name);
  std::optional<std::string> Text(std::string_view name);
  const nlohmann::json* Any(std::string_view name);  // nullptr: absent

  // "messages[2].role".
  std::string Path(std::string_view name) const;
  void Refuse(std::string_view name, std::string_view why);  // "<path>: <why>"
  // "<path>=<value> is not <wanted>".
  void RefuseValue(std::string_view path, const nlohmann::json& value, std::string_view wanted);
  void Keep(const absl::Status& status) { refusal_.Update(status); }

  absl::Status Finish();

 private:
  const nlohmann::json& value_;
  const std::string path_;
  std::set<std::string, std::less<>> read_;
  absl::Status refusal_;
};

}  // namespace palimpsest::inference
