#include "services/inference/http/fields.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

constexpr size_t kMaxShown = 80;  // bytes of a value in a message

// Not what is inside of lists and objects: it may be nested deeper than dump can go.
std::string Shown(const json& value) {
  if (value.is_array()) return value.empty() ? "[]" : "[..]";
  if (value.is_object()) return value.empty() ? "{}" : "{..}";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "..";
  return text;
}

}  // namespace

Fields::Fields(const json& value, std::string path) : value_(value), path_(std::move(path)) {
  if (!value.is_object()) RefuseValue(path_.empty() ? "body" : path_, value, "an object");
}

const json* Fields::Any(std::string_view name) {
  if (!value_.is_object()) return nullptr;
  read_.emplace(name);
  const auto found = value_.find(name);
  return found == value_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<bool> Fields::Flag(std::string_view name) {
  const json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  RefuseValue(Path(name), *value, "true or false");
  return std::nullopt;
}

std::optional<int32_t> Fields::Whole(std::string_view name) {
  const json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= INT32_MAX
                        : value->is_number_integer() && value->get<int64_t>() >= INT32_MIN;
  if (fits) return value->get<int32_t>();
  RefuseValue(Path(name), *value, "a whole number of 32 bits");
  return std::nullopt;
}

std::optional<uint64_t> Fields::Unsigned(std::string_view name) {
  const json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number_unsigned()) return value->get<uint64_t>();
  RefuseValue(Path(name), *value, "a whole number from 0 to 2^64 - 1");
  return std::nullopt;
}

std::optional<double> Fields::Number(std::string_view name) {
  const json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  RefuseValue(Path(name), *value, "a number");
  return std::nullopt;
}

std::optional<std::string> Fields::Text(std::string_view name) {
  const json* const value = Any(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  RefuseValue(Path(name), *value, "a string");
  return std::nullopt;
}

std::string Fields::Path(std::string_view name) const {
  return path_.empty() ? std::string(name) : absl::StrFormat("%s.%s", path_, name);
}

void Fields::Refuse(std::string_view name, std::string_view why) {
  Keep(absl::InvalidArgumentError(absl::StrFormat("%s: %s", Path(name), why)));
}

void Fields::RefuseValue(std::string_view path, const json& value, std::string_view wanted) {
  Keep(absl::InvalidArgumentError(absl::StrFormat("%s=%s is not %s", path, Shown(value), wanted)));
}

absl::Status Fields::Finish() {
  RETURN_IF_ERROR(refusal_);
  for (const auto& item : value_.items()) {
    if (!read_.contains(item.key())) Refuse(item.key(), "this server knows no such field");
  }
  return refusal_;
}

}  // namespace palimpsest::inference
