#pragma once

#include <cstdint>
#include <optional>

#include "common/base/status.h"

// What comes next in an episode of several turns: values in, decision out.
namespace palimpsest::rl {

// After the environment's turn.
struct EpisodeView {
  int32_t responses = 0;  // so far
  bool done = false;      // the environment has said so
  bool starved = false;   // the last response has no token: its context has no room left
  int32_t tokens = 0;     // of the sequence, with what the environment said last
};

struct EpisodeBounds {
  int32_t max_turns = 0;     // responses, > 0
  int32_t max_response = 0;  // tokens of one, > 0
  int32_t max_position = 0;  // of the model; positions are [0, max_position)
};

// How many tokens the next response may have, at least 1; nullopt: the episode is over.
std::optional<int32_t> NextResponse(const EpisodeView& now, const EpisodeBounds& bounds);

// A failed step of a session: is the episode lost and worth another try? What is not is an error
// that each try would meet again.
bool IsLost(const absl::Status& step);

// Is the same step worth asking for again? The replica is full, or an earlier step still ends.
bool MayStepLater(const absl::Status& step);

}  // namespace palimpsest::rl
