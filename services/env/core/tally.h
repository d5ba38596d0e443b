#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "services/env/core/environment.h"

namespace palimpsest::env {

// Registers that instructions add to, one each turn; at the end all of them are asked for. The
// value that an instruction adds to was last written some turns ago, in a response.
//   prompt          ^a7b6c2d3|b+5;       the registers, the first instruction
//   response        b1$                  the register after it, modulo 10
//   observation     c+4;                 the next instruction
//   ..
//   the last one    ?dbca;               all registers in some order
//   response        d3b1c6a7$
// Every length is constant: P = 2 * registers + 6, a turn has 4 + 3 bytes, the last one
// registers + 2 and 2 * registers + 1. With the defaults P = 14, T = 109 in 13 turns.
struct TallyOptions {
  int instructions = 12;     // each a turn; [2, 64]
  int registers = 4;         // a, b, ..; [2, 9]
  double line_weight = 0.3;  // share of the reward on right results of instructions; [0, 1]
  bool operator==(const TallyOptions&) const = default;
};

absl::Status Validate(const TallyOptions& options);

// reward = (1 - line_weight) * answer + line_weight * lines, where
//   answer: fraction of the letter-digit pairs of the last response right, in order
//   lines:  fraction of the instructions whose response was exactly right
// The state is a byte for each response: '1' right or '0', then how many pairs were right.
absl::StatusOr<std::unique_ptr<const Environment>> MakeTally(const TallyOptions& options);

}  // namespace palimpsest::env
