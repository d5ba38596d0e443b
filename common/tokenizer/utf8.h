#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace palimpsest {

// What stands at one place of a byte string that should be UTF-8.
struct Utf8Step {
  enum class Kind {
    kWhole,   // a whole, valid sequence
    kBroken,  // ill-formed: `length` bytes are one "maximal subpart" (Unicode 15, section 3.9)
    kCut,     // valid so far, but the text ends inside the sequence
  };
  Kind kind;
  size_t length;        // bytes, >= 1
  char32_t code_point;  // meaningful for kWhole only
};

// Looks at text[at...]; at < text.size().
Utf8Step StepUtf8(std::string_view text, size_t at);

// Each ill-formed maximal subpart becomes one U+FFFD; valid text comes back as it is.
std::string ReplaceInvalidUtf8(std::string_view text);

// As ReplaceInvalidUtf8, but a sequence cut by the end of the text is left out and its length put
// into `held` (0 to 3 bytes): what follows may still complete it.
std::string ReplaceInvalidUtf8(std::string_view text, size_t& held);

bool IsValidUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);  // code_point: a Unicode scalar value

}  // namespace palimpsest
