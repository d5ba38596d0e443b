#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/env/core/split.h"

namespace palimpsest::env {

// One problem. A pure function of (task, options, split, seed, index): nothing is stored, and any
// replica that has the four can make it again and score for it.
struct Episode {
  std::string task;
  Split split = Split::kTrain;
  uint64_t seed = 0;
  int64_t index = 0;  // >= 0

  std::string prompt;                         // bytes shown to the policy
  std::map<std::string, std::string> answer;  // what Grade needs; keys are the task's own
  std::vector<std::string> stops;  // strings that end a response; empty: end-of-text only
  int32_t max_response_bytes = 0;  // enough for any full answer, the stop included
  // The answer needs text that a third of the full length can no longer hold verbatim.
  bool needs_memory = false;
  std::string
      state;  // of several turns: what happened, in the task's own words; empty at the start
  bool operator==(const Episode&) const = default;
};

// The environment's answer to a response in an episode of several turns.
struct Turn {
  std::string state;        // the response included
  std::string observation;  // bytes shown to the policy next; empty when done
  bool done = false;
};

// A verdict on a response. Reasons are printable ASCII, whatever bytes the response held.
struct Score {
  double reward = 0;  // [0, 1]
  std::string reason;
  std::map<std::string, double> parts;  // named terms, each in [0, 1]
};

// What a demonstration gets wrong on purpose.
struct Noise {
  double answer = 0;  // chance that a digit of the answer is replaced by a uniform digit; [0, 1]
};

// A task. Immutable after its factory returned: any thread, any number of callers.
// A broken or foreign episode is a Status error; a wrong response is a Score with a reason.
class Environment {
 public:
  virtual ~Environment() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view description() const = 0;
  // Responses that an episode takes at most; more than 1: it is stepped, then graded.
  virtual int max_turns() const { return 1; }

  // kInvalidArgument: split is none of the three, or index < 0.
  virtual absl::StatusOr<Episode> Make(Split split, uint64_t seed, int64_t index) const = 0;

  // One turn of an episode of several. kFailedPrecondition: the task is single-turn;
  // kInvalidArgument: the state is not ours, or the episode is over.
  virtual absl::StatusOr<Turn> Step(const Episode& episode, std::string_view response) const;

  // `response` is any bytes, with or without its stop string. Of several turns: the episode as its
  // state tells it, over or not; the response is empty.
  virtual absl::StatusOr<Score> Grade(const Episode& episode, std::string_view response) const = 0;

  // A response for SFT, of several turns the next one; right where `noise` is zero. kUnimplemented
  // where a task cannot show one, kInvalidArgument for a noise it cannot make.
  virtual absl::StatusOr<std::string> Demonstrate(const Episode& episode, Noise noise) const = 0;
};

// The checks that every task makes first.
absl::Status CheckDraw(std::string_view task, Split split, int64_t index);
absl::Status CheckEpisode(std::string_view task, const Episode& episode);
absl::Status CheckNoise(std::string_view task, Noise noise);

// The text under `key` in episode.answer; kInvalidArgument when it is absent.
absl::StatusOr<std::string> AnswerText(const Episode& episode, std::string_view key);

// At most `limit` bytes of hostile text, escaped to printable ASCII.
std::string Quoted(std::string_view text, size_t limit = 32);

}  // namespace palimpsest::env
