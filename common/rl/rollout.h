#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/strong_int.h"
#include "common/context/types.h"

namespace palimpsest::rl {

enum class Origin : uint8_t { kPrompt = 1, kSampled = 2, kInjected = 3 };

enum class FinishReason : uint8_t {
  kStop = 1,    // a stop id or stop string
  kLength = 2,  // max_tokens, the model's max position, or no room in the context
  kCancelled = 3,
  kDeadline = 4,
  kFailed = 5,  // the engine could not go on
};

// What became of a rollout; only kOk carries a reward.
enum class Outcome : uint8_t {
  kOk = 1,
  kTruncated = 2,
  kTaskFailed = 3,
  kInfraFailed = 4,
  kCancelled = 5
};

// Tokens [begin, end) of the sequence were made by these weights.
struct Span {
  int32_t begin = 0;
  int32_t end = 0;
  PolicyVersion version;
  int32_t kv_epoch = 0;
  bool operator==(const Span&) const = default;
};

// One sequence as it was generated: everything that replay and the loss need.
struct Rollout {
  std::string id;
  std::vector<int32_t> tokens;  // prompt and response, by position
  int32_t prompt_tokens = 0;    // P
  std::vector<Origin> origins;  // [tokens]
  std::vector<float> logprobs;  // [tokens], nats at `temperature`; 0 for prompt and injected
  std::vector<context::Event> events;
  std::vector<Span> spans;  // tile the sampled and injected tokens, in order
  FinishReason finish_reason = FinishReason::kStop;
  uint64_t seed = 0;
  int32_t sample = 0;        // index within its group
  double temperature = 1.0;  // of the recorded log-probabilities (T = 0 is recorded at T = 1)
  bool greedy = false;       // sampled at T = 0
  bool truncated_sampling =
      false;  // top-k/top-p/penalties/bias were used: the trainer refuses it unless told otherwise
  double seconds = 0;
  bool operator==(const Rollout&) const = default;
};

}  // namespace palimpsest::rl
