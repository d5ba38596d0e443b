#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace palimpsest::env {

// numerator / denominator in lowest terms, denominator > 0. Operations give nullopt on overflow.
struct Rational {
  __int128 numerator = 0;
  __int128 denominator = 1;
  double ToDouble() const {
    return static_cast<double>(numerator) / static_cast<double>(denominator);
  }
};

struct Evaluated {
  std::vector<int64_t> literals;  // as written, from left to right; INT64_MAX for a larger one
  std::optional<Rational> value;  // exact; nullopt when a step left the range of 128 bits
};

inline constexpr size_t kMaxExpressionBytes = 1024;
inline constexpr int kMaxExpressionDepth = 64;  // nested parentheses and signs together

// Parses and evaluates hostile text: decimal integers, + - * /, signs, parentheses, blanks; line
// breaks only inside parentheses. No leading zeros. Time and memory are linear in the text, stack
// is bounded by the depth. kInvalidArgument says what is wrong and at which byte.
absl::StatusOr<Evaluated> EvaluateExpression(std::string_view text);

}  // namespace palimpsest::env
