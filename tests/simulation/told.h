#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/rl/rollout.h"
#include "services/orchestrator/core/peers.h"

// Prompts and responses of the simulation say themselves how they came about, so that a rollout can
// be judged from its tokens alone, wherever it has been. A token is a byte.
namespace palimpsest::simulation {

inline constexpr char kTalk[] = "talk";  // the task that takes kTurns responses
inline constexpr int kTurns = 2;
inline constexpr char kObservation[] = ">";  // what it says between them

// "?<task>:<split>:<index>:"
std::string PromptText(const orchestrator::Episode& episode);

// "<begun>.<sample>.<draw>/<ended>": the weights that made what stands before and behind the slash.
// The draw is what sampling would be: a number that follows from all that it may depend on.
struct Response {
  int64_t begun = 0;
  int64_t ended = 0;
  int32_t sample = 0;
  int64_t draw = 0;
  int32_t slash = 0;  // of the text: how many bytes were made by `begun`
  std::string text;
};
Response Respond(uint64_t seed, int32_t sample, int32_t turn, int64_t begun, int64_t ended);

// What a rollout tells of itself. DATA_LOSS names what does not fit together: a token without
// version, log-probability or origin, or one that nobody has sampled so.
struct Told {
  std::string task;
  int split = 0;
  int64_t index = 0;
  std::vector<Response> responses;  // not empty
};
absl::StatusOr<Told> Listen(const rl::Rollout& rollout);

// The reward of an episode whose last response this is, (0, 1]. Every fifth prompt of the training
// split is dull: it has the same for all.
double Truth(const std::string& task, int split, int64_t index, const std::string& response);

}  // namespace palimpsest::simulation
