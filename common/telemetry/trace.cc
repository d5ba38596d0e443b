#include "common/telemetry/trace.h"

#include <charconv>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

TraceScope::Work& Current() {
  thread_local TraceScope::Work work;
  return work;
}

// Lower-case digits only, all of them.
std::optional<uint64_t> ParseHex(std::string_view digits) {
  if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

}  // namespace

std::string TraceId::Hex() const { return absl::StrFormat("%016x%016x", high, low); }

TraceScope::TraceScope(const Work& work) : before_(Current()) { Current() = work; }
TraceScope::~TraceScope() { Current() = before_; }
TraceScope::Work TraceScope::Now() { return Current(); }

std::string Traceparent(TraceId id, uint64_t parent_span) {
  return absl::StrFormat("00-%s-%016x-01", id.Hex(), parent_span);
}

std::optional<TraceId> ParseTraceparent(std::string_view text) {
  // 00-<32 digits>-<16 digits>-<2 digits>
  if (text.size() != 55 || !text.starts_with("00-") || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  const auto high = ParseHex(text.substr(3, 16)), low = ParseHex(text.substr(19, 16));
  const auto parent = ParseHex(text.substr(36, 16)), flags = ParseHex(text.substr(53, 2));
  if (!high || !low || !parent || !flags || (*high == 0 && *low == 0) || *parent == 0) {
    return std::nullopt;
  }
  return (*flags & 1) != 0 ? std::optional(TraceId{*high, *low}) : std::nullopt;
}

}  // namespace palimpsest
