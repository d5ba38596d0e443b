#include "common/config/scalar.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {
namespace {

constexpr std::array<std::pair<std::string_view, int>, 5> kByteUnits = {
    {{"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}}};

absl::Status Expected(const Node& node, std::string_view path, std::string_view what) {
  if (node.kind != Node::Kind::kScalar) {
    return ConfigError(node.where, path,
                       absl::StrFormat("expected %s, found %s", what, KindName(node)));
  }
  return ConfigError(
      node.where, path,
      absl::StrFormat("expected %s, found %s%s", what, node.quoted ? "the text " : "",
                      node.quoted ? "\"" + node.text + "\"" : node.text));
}

bool IsPlainScalar(const Node& node) { return node.kind == Node::Kind::kScalar && !node.quoted; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// 010 is eight in YAML 1.1 and ten in YAML 1.2.
bool HasLeadingZero(std::string_view text) {
  if (!text.empty() && text[0] == '-') text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && IsDigit(text[1]);
}

template <class T>
absl::StatusOr<T> ReadInteger(const Node& node, std::string_view path, T min, T max) {
  if (!IsPlainScalar(node) || HasLeadingZero(node.text)) {
    return Expected(node, path, "an integer");
  }
  T value = 0;
  const char* end = node.text.data() + node.text.size();
  const auto [rest, error] = std::from_chars(node.text.data(), end, value);
  if (rest != end || error == std::errc::invalid_argument) {
    return Expected(node, path, "an integer");
  }
  if (error != std::errc() || value < min || value > max) {
    return ConfigError(node.where, path,
                       absl::StrFormat("%s is outside of [%d, %d]", node.text, min, max));
  }
  return value;
}

template <class T>
absl::StatusOr<T> ReadFloating(const Node& node, std::string_view path) {
  // The first and last characters keep words (inf, nan) and ".5" or "5." out.
  if (!IsPlainScalar(node) || HasLeadingZero(node.text) || node.text.empty() ||
      !IsDigit(node.text.back()) || !IsDigit(node.text[node.text[0] == '-' ? 1 : 0])) {
    return Expected(node, path, "a number");
  }
  T value = 0;
  const char* end = node.text.data() + node.text.size();
  const auto [rest, error] = std::from_chars(node.text.data(), end, value);
  if (rest != end || error == std::errc::invalid_argument) return Expected(node, path, "a number");
  if (error != std::errc()) {
    return ConfigError(node.where, path,
                       absl::StrFormat("%s does not fit the type of this value", node.text));
  }
  return value;
}

template <class T>
std::string WriteFloating(T value) {
  std::array<char, 64> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return std::string(buffer.data(), end);
}

}  // namespace

std::string_view KindName(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "no value";
    case Node::Kind::kScalar:
      return "a single value";
    case Node::Kind::kSequence:
      return "a list";
    case Node::Kind::kMap:
      return "a map";
  }
  return "nothing";
}

absl::StatusOr<bool> ReadBool(const Node& node, std::string_view path) {
  if (IsPlainScalar(node) && node.text == "true") return true;
  if (IsPlainScalar(node) && node.text == "false") return false;
  return Expected(node, path, "true or false");
}

absl::StatusOr<int64_t> ReadInt(const Node& node, std::string_view path, int64_t min, int64_t max) {
  return ReadInteger<int64_t>(node, path, min, max);
}

absl::StatusOr<uint64_t> ReadUint(const Node& node, std::string_view path, uint64_t max) {
  if (IsPlainScalar(node) && node.text.size() > 1 && node.text[0] == '-' && IsDigit(node.text[1])) {
    return ConfigError(node.where, path, absl::StrFormat("%s is negative", node.text));
  }
  return ReadInteger<uint64_t>(node, path, 0, max);
}

absl::StatusOr<double> ReadDouble(const Node& node, std::string_view path) {
  return ReadFloating<double>(node, path);
}

absl::StatusOr<float> ReadFloat(const Node& node, std::string_view path) {
  return ReadFloating<float>(node, path);
}

absl::StatusOr<std::string> ReadString(const Node& node, std::string_view path) {
  if (node.kind != Node::Kind::kScalar) return Expected(node, path, "a text");
  return node.text;
}

absl::StatusOr<absl::Duration> ReadDuration(const Node& node, std::string_view path) {
  constexpr std::string_view kWhat = "a time with its unit such as 500ms, 2s, 1h30m";
  if (!IsPlainScalar(node) || node.text.empty() || IsDigit(node.text.back())) {
    return Expected(node, path, kWhat);
  }
  absl::Duration value;
  if (!absl::ParseDuration(node.text, &value)) return Expected(node, path, kWhat);
  if (value == absl::InfiniteDuration() || value == -absl::InfiniteDuration()) {
    return ConfigError(node.where, path, absl::StrFormat("%s is not a finite time", node.text));
  }
  return value;
}

absl::StatusOr<int64_t> ReadBytes(const Node& node, std::string_view path) {
  constexpr std::string_view kWhat = "a size with its unit (B, KiB, MiB, GiB, TiB) such as 64MiB";
  if (!IsPlainScalar(node) || HasLeadingZero(node.text)) return Expected(node, path, kWhat);
  int64_t count = 0;
  const char* end = node.text.data() + node.text.size();
  const auto [rest, error] = std::from_chars(node.text.data(), end, count);
  const std::string_view unit(rest, end - rest);
  for (const auto& [name, shift] : kByteUnits) {
    if (unit != name || error == std::errc::invalid_argument) continue;
    if (error != std::errc() || count < 0 || count > std::numeric_limits<int64_t>::max() >> shift) {
      return ConfigError(node.where, path,
                         absl::StrFormat("%s is negative or too large", node.text));
    }
    return count << shift;
  }
  return Expected(node, path, kWhat);
}

std::string WriteDouble(double value) { return WriteFloating(value); }
std::string WriteFloat(float value) { return WriteFloating(value); }

std::string WriteBytes(int64_t bytes) {
  for (size_t i = kByteUnits.size() - 1; i > 0; --i) {
    const auto [name, shift] = kByteUnits[i];
    if (bytes != 0 && bytes % (int64_t{1} << shift) == 0) {
      return absl::StrFormat("%d%s", bytes >> shift, name);
    }
  }
  return absl::StrFormat("%dB", bytes);
}

}  // namespace palimpsest
