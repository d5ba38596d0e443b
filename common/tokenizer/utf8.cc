#include "common/tokenizer/utf8.h"

#include <cstdint>

namespace palimpsest {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  size_t length;    // bytes of the whole sequence; 0: not a lead byte
  uint8_t low = 0;  // range of the second byte; later bytes are 0x80 to 0xBF
  uint8_t high = 0;
};

Lead ReadLead(uint8_t b) {
  if (b < 0x80) return {1};
  if (b < 0xC2) return {0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b == 0xE0) return {3, 0xA0, 0xBF};  // no overlong forms
  if (b == 0xED) return {3, 0x80, 0x9F};  // no surrogates
  if (b < 0xF0) return {3, 0x80, 0xBF};
  if (b == 0xF0) return {4, 0x90, 0xBF};
  if (b < 0xF4) return {4, 0x80, 0xBF};
  if (b == 0xF4) return {4, 0x80, 0x8F};  // nothing over U+10FFFF
  return {0};
}

}  // namespace

Utf8Step StepUtf8(std::string_view text, size_t at) {
  const uint8_t first = static_cast<uint8_t>(text[at]);
  const Lead lead = ReadLead(first);
  if (lead.length == 0) return {Utf8Step::Kind::kBroken, 1, 0};
  if (lead.length == 1) return {Utf8Step::Kind::kWhole, 1, first};
  char32_t code_point = first & (0x7Fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (at + i == text.size()) return {Utf8Step::Kind::kCut, i, 0};
    const uint8_t b = static_cast<uint8_t>(text[at + i]);
    const bool fits = i == 1 ? (b >= lead.low && b <= lead.high) : (b >= 0x80 && b <= 0xBF);
    if (!fits) return {Utf8Step::Kind::kBroken, i, 0};
    code_point = (code_point << 6) | (b & 0x3F);
  }
  return {Utf8Step::Kind::kWhole, lead.length, code_point};
}

std::string ReplaceInvalidUtf8(std::string_view text, size_t& held) {
  std::string out;
  out.reserve(text.size());
  held = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = StepUtf8(text, at);
    if (step.kind == Utf8Step::Kind::kCut) {
      held = step.length;
      break;
    }
    out += step.kind == Utf8Step::Kind::kWhole ? text.substr(at, step.length) : kReplacement;
    at += step.length;
  }
  return out;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  size_t held = 0;
  std::string out = ReplaceInvalidUtf8(text, held);
  if (held > 0) out += kReplacement;
  return out;
}

bool IsValidUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = StepUtf8(text, at);
    if (step.kind != Utf8Step::Kind::kWhole) return false;
    at += step.length;
  }
  return true;
}

void AppendUtf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
  }
  out += static_cast<char>(0x80 | (c & 0x3F));
}

}  // namespace palimpsest
