#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/context/policy.h"
#include "common/rl/replayed.h"
#include "common/rl/rollout.h"
#include "common/rl/sampling.h"

// The other daemons as the loop sees them, in values. Calls block, any thread may make them, each
// one has a deadline. kUnavailable, kDeadlineExceeded, kAborted and kResourceExhausted may pass;
// everything else is an answer.
namespace palimpsest::orchestrator {

// ---- environment ----

enum class Split : uint8_t { kTrain = 1, kSft = 2, kHeldout = 3 };

// Names one prompt; goes back to the environment as it came.
struct Episode {
  std::string task;
  Split split = Split::kTrain;
  uint64_t seed = 0;
  int64_t index = 0;
  std::string state;
  bool operator==(const Episode&) const = default;
};

// Of a conversation: role is system, user, assistant or tool.
struct Message {
  std::string role;
  std::string content;
  bool operator==(const Message&) const = default;
};

struct Prompt {
  Episode episode;
  std::string text;               // this, or
  std::vector<Message> messages;  // a conversation, which the model's chat template frames
  std::vector<std::string> tags;
  std::vector<std::string> stops;  // strings that end a response
  int32_t max_response = 0;        // tokens of one response; 0 = our choice
  int32_t max_turns = 0;  // responses that the episode takes at most; 0 = it is not stepped
};
inline constexpr char kNeedsMemory[] = "needs_memory";  // the tag that reports split by

struct Verdict {
  rl::Outcome outcome = rl::Outcome::kOk;  // kOk or kTaskFailed
  double reward = 0;                       // meant only with kOk
  std::string reason;
  std::map<std::string, double> parts;
};

// The environment's answer to a response in an episode of several turns.
struct EnvTurn {
  Episode episode;                // with what happened
  std::vector<Message> messages;  // none when done
  bool done = false;
};

class EnvClient {
 public:
  virtual ~EnvClient() = default;
  virtual absl::StatusOr<std::vector<std::string>> Tasks() = 0;  // that it has
  virtual absl::StatusOr<Prompt> Reset(const Episode& episode) = 0;
  virtual absl::StatusOr<EnvTurn> Step(const Episode& episode, const std::string& response) = 0;
  // Of several turns: the episode as it stands, with an empty response.
  virtual absl::StatusOr<Verdict> Score(const Episode& episode, const std::string& response) = 0;
  // Of several turns: the expert's next response.
  virtual absl::StatusOr<std::string> Demonstrate(const Episode& episode, double answer_noise) = 0;
};

// ---- inference ----

// Weights that stand whole in the store.
struct Weights {
  PolicyVersion version;
  std::optional<PolicyVersion> parent;
  int64_t step = 0;  // of the trainer, that they were written after
  std::string run;
  int32_t attempt = 0;
  std::string manifest_digest;
  bool operator==(const Weights&) const = default;
};

struct GenerateCall {
  std::string request_id;
  std::vector<int32_t> prompt;
  int32_t n = 1;
  int32_t first_sample = 0;
  rl::SamplingParams sampling;
  context::ContextPolicy context;
  std::optional<PolicyVersion> min_version;
  size_t replica = 0;                   // taken modulo the number of replicas
  std::vector<rl::Rollout> begun = {};  // of the n, ascending: those that go on where they were cut
};

// What became of one sample: a rollout with its text, or a failure with what there was by then.
struct Sample {
  int32_t sample = 0;
  absl::Status status;
  rl::Outcome outcome = rl::Outcome::kOk;  // kOk iff status is OK
  bool retryable = false;
  rl::Rollout rollout;  // of a failure: no tokens when there is nothing
  std::string text;     // of the sampled tokens, cut at a stop string
};

// A conversation whose KV stays with one replica between its steps.
struct SessionCall {
  std::string request_id;
  std::vector<int32_t> prompt;
  context::ContextPolicy context;
  uint64_t seed = 0;  // of all its draws
  std::optional<PolicyVersion> min_version;
  size_t replica = 0;                     // the first that is asked, modulo the number of replicas
  std::optional<rl::Rollout> begun = {};  // stands where this log of a session ends
};
struct SessionRef {
  std::string id;
  size_t replica = 0;
};
struct SessionStep {
  std::string request_id;
  SessionRef session;
  int32_t expected_tokens = 0;   // of the session before the step
  std::vector<int32_t> new_ids;  // what is injected at its end
  rl::SamplingParams sampling;   // but for the seed
};

struct ModelFacts {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t max_position = 0;  // positions are [0, max_position)
  std::vector<int32_t> stop_ids;
  PolicyVersion version;  // live at the replica that answered
};

class InferenceClient {
 public:
  virtual ~InferenceClient() = default;
  virtual absl::StatusOr<ModelFacts> Describe() = 0;
  // One Sample for each of [first_sample, first_sample + n), in this order.
  virtual absl::StatusOr<std::vector<Sample>> Generate(const GenerateCall& call) = 0;
  virtual absl::StatusOr<SessionRef> CreateSession(const SessionCall& call) = 0;
  // The rollout is the whole sequence, the text that of this step alone. kNotFound: the replica has
  // lost the session.
  virtual absl::StatusOr<Sample> StepSession(const SessionStep& step) = 0;
  // As far as it can be reached; what is left is deleted when it has been idle for long enough.
  virtual void DeleteSession(const SessionRef& session) = 0;
  // On every replica; OK when at least one and all that answer serve this version or a newer one.
  // One that is away finds it in the store by itself, and no request takes older weights.
  virtual absl::Status UpdateWeights(const Weights& weights) = 0;
  // Ends what runs there for this orchestrator, its sessions too.
  virtual absl::Status AbortAll(const std::string& reason) = 0;
};

// ---- trainer ----

struct SftItem {
  std::string id;
  std::vector<int32_t> ids;     // [T]
  std::vector<bool> loss_mask;  // [T], the first is false
  int32_t prompt_tokens = 0;
  std::vector<int32_t> turn_begins = {};  // of several turns: where steps began, rising from P on
  bool operator==(const SftItem&) const = default;
};

struct RlItem {
  rl::Rollout rollout;
  double advantage = 0;
  double reward = 0;
  std::string group_id;
  bool operator==(const RlItem&) const = default;
};

// One optimiser step. Either `sft` or `rl` holds items.
struct TrainBatch {
  std::string id;
  int64_t step = 0;
  double learning_rate = 0;
  context::ContextPolicy context;  // of the demonstrations
  std::vector<SftItem> sft;
  std::vector<RlItem> rl;
};

struct MismatchBucket {
  int32_t events = 0;
  int64_t tokens = 0;
  double kl = 0;  // per token, nats
  double max_abs = 0;
  bool operator==(const MismatchBucket&) const = default;
};

struct RejectedRollout {
  std::string rollout_id;
  std::string message;
};

struct TrainResult {
  bool already_trained = false;
  bool skipped = false;  // the gradient was not finite
  double loss = 0;
  double grad_norm = 0;
  int64_t loss_tokens = 0;
  double entropy = 0;
  std::vector<MismatchBucket> mismatch;
  std::vector<RejectedRollout> rejected;
  std::vector<rl::Replayed> replayed;  // of the RL items that were learnt, as far as it is known
};

struct TrainerStatus {
  int64_t step = 0;
  int64_t durable_step = 0;
  std::vector<Weights> published;  // what the store holds, ascending by version
  bool serving = false;
};

class TrainerClient {
 public:
  virtual ~TrainerClient() = default;
  virtual absl::StatusOr<TrainerStatus> Status() = 0;
  // kFailedPrecondition: a gap in the steps, or another batch at a trained step.
  virtual absl::StatusOr<TrainResult> Train(const TrainBatch& batch) = 0;
  virtual absl::StatusOr<Weights> Publish(int64_t step) = 0;
  virtual absl::StatusOr<int64_t> SaveCheckpoint() = 0;  // the durable step
};

// ---- this process ----

// A rollout as bytes for the ledger and back; the message of the contract, which the engine does
// not know.
class RolloutCodec {
 public:
  virtual ~RolloutCodec() = default;
  virtual std::string Encode(const rl::Rollout& rollout) const = 0;
  virtual absl::StatusOr<rl::Rollout> Decode(std::string_view bytes) const = 0;
};

struct Peers {
  EnvClient& env;
  InferenceClient& inference;
  TrainerClient& trainer;
  const RolloutCodec& codec;
};

// May the same call succeed later?
inline bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status) || absl::IsResourceExhausted(status);
}

}  // namespace palimpsest::orchestrator
