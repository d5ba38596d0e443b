#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/env/core/environment.h"

namespace palimpsest::env {

// The numbers game: reach a target with every given number once, + - * / and parentheses. Problems
// are drawn and answers scored as reasoning-gym's "countdown" does; the wording is ours.
struct CountdownOptions {
  int min_numbers = 4;  // 2 <= min <= max, max_value ^ max_numbers <= 10^18
  int max_numbers = 6;
  int min_value = 1;  // of a given number; 1 <= min <= max
  int max_value = 100;
  int min_target = 100;  // 1 <= min <= max
  int max_target = 999;
  int max_response_bytes = 1024;  // room for thinking aloud; >= 64
  bool operator==(const CountdownOptions&) const = default;
};

absl::Status Validate(const CountdownOptions& options);

inline constexpr double kSolved = 1.0;       // every number once, and the value is the target
inline constexpr double kExpression = 0.05;  // an expression, but not that
inline constexpr double kNoExpression = 0.01;

// The text of the last <answer>...</answer>, or the whole response where there is none; without
// blanks at its ends.
std::string_view ExtractAnswer(std::string_view response);

// The value may miss the target by 1e-6 + 1e-5 * target, as in reasoning-gym. Division by zero is
// no expression. numbers: not empty; target > 0.
Score ScoreCountdown(std::span<const int64_t> numbers, int64_t target, std::string_view answer);

absl::StatusOr<std::unique_ptr<const Environment>> MakeCountdown(const CountdownOptions& options);

}  // namespace palimpsest::env
