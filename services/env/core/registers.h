#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "services/env/core/environment.h"

namespace palimpsest::env {

// A chain of additions modulo 10, written out line by line, with questions about its middle.
//   prompt    ^Fa7b6c2d3?plon:                        mode, four seed registers, four asked letters
//   response  a7+d3=e0;b6+e0=f6;...p5+s5=t0;#p5l6o9n4$
// Computed register i (letter 'e' + i) stands in line i:
//   F, far:  v_i = (v_{i-4} + v_{i-1}) mod 10; asks four different ones of asked_first..asked_last
//   N, near: v_i = (v_a + v_{i-1}) mod 10;     asks four times one of the last two
// Every length is constant: P = 16 bytes, R = 9 * lines + 10, so T = 170 by default.
struct RegistersOptions {
  int lines = 16;            // computed registers; [4, 22], letters end at 'z'
  int asked_first = 6;       // computed registers asked in far mode, both ends included;
  int asked_last = 12;       //   0 <= first, first + 3 <= last < lines
  double far_share = 0.75;   // chance of F; [0, 1]
  double line_weight = 0.3;  // share of the reward on exactly right lines; [0, 1]
  bool operator==(const RegistersOptions&) const = default;
};

absl::Status Validate(const RegistersOptions& options);

// reward = (1 - line_weight) * answer + line_weight * lines, where
//   answer: fraction of the four letter-digit pairs right, in order, after the first '#'
//   lines:  fraction of the lines exactly right, each at its place, before the first '#'
// Both are parts of the score, and so is recall by age, which the reward does not look at:
// recall_1_4 is that fraction of the answer's pairs whose line is one of the last four, recall_5_8,
// ..
absl::StatusOr<std::unique_ptr<const Environment>> MakeRegisters(const RegistersOptions& options);

}  // namespace palimpsest::env
