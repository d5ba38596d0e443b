#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/context/policy.h"
#include "common/rl/rollout.h"
#include "common/rl/sampling.h"
#include "services/inference/core/sessions.h"

// What the server asks of an engine, in values. The engine lives in services/inference/engine; the
// server, the command line and tests see this interface only.
namespace palimpsest::inference {

struct GenerationRequest {
  std::string request_id;
  std::string client;
  std::vector<int32_t> prompt;  // not empty
  int32_t n = 1;
  int32_t first_sample = 0;
  rl::SamplingParams sampling;
  context::ContextPolicy context;
  std::optional<rl::BudgetMessages> budget_messages;
  int32_t priority = 0;  // higher goes first
  absl::Time deadline = absl::InfiniteFuture();
  std::optional<SessionStep> step;  // absent: a sequence of its own
  // Samples among the n that were cut, by an abort or a server that went away: they go on behind
  // their last token. Their logs are replayed into new caches (kv epoch + 1), their ends tell the
  // whole of them, what is told of tokens and events on the way is new. Digests that their events
  // lack are filled in, as by Score.
  std::vector<rl::Rollout> begun;
};

// The likeliest tokens of a position, likeliest first, ties to the lower id.
struct Alternatives {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // nats, as those of tokens
};

struct TokenChunk {
  int32_t sample = 0;
  int32_t begin = 0;  // position of the first
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::vector<rl::Origin> origins;
  std::string text;  // new whole characters; empty without a tokenizer
  PolicyVersion version;
  int32_t kv_epoch = 0;
  std::vector<Alternatives> top;  // [ids] when sampling.top_logprobs is asked; empty for injected
};

struct Finished {
  int32_t sample = 0;
  rl::Rollout rollout;
  std::string text;  // of the sampled tokens, cut at a stop string; empty without a tokenizer
  std::optional<std::string> stop_string;
  // [P - 1] when sampling.prompt_logprobs is asked: nats of the prompt's tokens after the first,
  // and the alternatives when more than 0 were asked. Not of a session's steps.
  std::vector<float> prompt_logprobs;
  std::vector<Alternatives> prompt_top;
};

// It failed here, where a step broke, a GPU was lost or the engine goes: not by what was asked, so
// another replica, or this one anew, may do it.
inline bool IsOfInfrastructure(const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsUnavailable(status);
}

struct Failure {
  int32_t sample = 0;
  absl::Status status;
  bool retryable = false;
  rl::Outcome outcome = rl::Outcome::kInfraFailed;  // kInfraFailed, kCancelled or kTruncated
  std::optional<rl::Rollout> partial;
};

// Called on the engine's thread, in order; must not block. Exactly one of OnFinished and OnFailure
// per sample, last.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnTokens(TokenChunk chunk) = 0;
  virtual void OnEvent(int32_t sample, const context::Event& event) = 0;
  virtual void OnFinished(Finished finished) = 0;
  virtual void OnFailure(Failure failure) = 0;
};

struct ScoreRequest {
  std::vector<int32_t> tokens;         // >= 2
  std::vector<context::Event> events;  // forced; a missing digest is filled in, a wrong one refused
  double temperature = 1;              // > 0
  std::optional<int32_t> top = {};     // alternatives per token, [0, rl::kMaxAlternatives]
  // By the weights and the pass that decode, where those of replay are others (on a GPU): do they
  // say the same? Without events.
  bool as_decoded = false;
};
struct ScoreResult {
  std::vector<float> logprobs;         // [tokens - 1]
  std::vector<Alternatives> top;       // [tokens - 1] when asked
  std::vector<context::Event> events;  // with digests
  PolicyVersion version;
};

struct ModelInfo {
  std::string architecture, dtype;
  int32_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0, vocab = 0,
          max_position = 0;
  std::vector<int32_t> stop_ids;
};

struct Limits {
  int32_t max_running = 64;           // sequences decoded together, >= 1
  int32_t max_queued = 1024;          // samples that wait; beyond it RESOURCE_EXHAUSTED
  int32_t max_samples = 256;          // n of one request
  int64_t kv_pool_bytes = 256 << 20;  // slots and recorded queries, over all layers
  // Prompt rows of one step, over all sequences; fewer while others decode, who wait meanwhile.
  int32_t prefill_tokens = 512;
  bool prefix_cache = true;    // pages of prompts are kept for others that begin alike
  int32_t max_sessions = 256;  // open ones; beyond it RESOURCE_EXHAUSTED; 0 = none here
  absl::Duration session_ttl = absl::Minutes(10);  // of a session that does not say
#ifdef NDEBUG
  bool check_pages = false;  // after each step: a page without an owner fails what is running
#else
  bool check_pages = true;
#endif
};

struct Load {
  int32_t running = 0, queued = 0;
  int32_t preempted = 0;  // samples that gave their memory back and wait to go on
  int32_t sessions = 0;   // open
  int64_t kv_bytes_free = 0;
  int64_t live_slots = 0, total_slots = 0;
  int64_t kv_behind = 0;  // flips of weights since the oldest KV of what runs was begun
};

enum class WeightsMode { kKeep, kRecompute, kFinish };
struct UpdateResult {
  PolicyVersion version;
  double load_seconds = 0, flip_seconds = 0;
  bool already_live = false;
};

// Any thread may call; one engine thread decodes.
class Engine {
 public:
  virtual ~Engine() = default;

  // Refuses before acceptance: INVALID_ARGUMENT naming field and value; RESOURCE_EXHAUSTED when the
  // queue is full or the sequence could never fit the pool (what was needed, what is there);
  // UNAVAILABLE while draining or without weights. A step of a session also: NOT_FOUND saying what
  // became of it; ABORTED while another step runs; FAILED_PRECONDITION: expected_tokens differ, or
  // nothing new after a stop.
  virtual absl::Status Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) = 0;
  // Ends the samples of a request within one step: each gets OnFailure(CANCELLED) with its partial
  // rollout. Unknown: no-op.
  virtual void Cancel(const std::string& request_id) = 0;
  virtual int AbortAll(const std::string& client,
                       const std::string& reason) = 0;  // client empty = all; samples aborted

  virtual absl::StatusOr<ScoreResult> Score(const ScoreRequest& request) = 0;

  // Reads and checks `folder` beside the live weights, then flips between two steps. On an error
  // the old weights stay. kKeep: running sequences go on, spans tell. kRecompute: they go on too,
  // after their log has been replayed under the new weights (kv epoch + 1). kFinish: new requests
  // wait until the running ones are done under the old weights.
  virtual absl::StatusOr<UpdateResult> UpdateWeights(const std::string& folder,
                                                     PolicyVersion version, WeightsMode mode) = 0;

  virtual void Pause() = 0;  // frozen between two steps
  virtual void Resume() = 0;
  // No new requests; returns when the running ones are done, or cancels them at the deadline.
  virtual void Drain(absl::Duration grace) = 0;

  virtual Sessions* sessions() = 0;  // null: none here

  virtual PolicyVersion version() const = 0;
  virtual const ModelInfo& model() const = 0;
  virtual const Limits& limits() const = 0;
  virtual Load load() const = 0;
  // OK, or why nothing will be computed here any more (a GPU that is lost): all that ran or waited
  // has ended with this status, new work is refused with it, and the process has to start anew.
  virtual absl::Status lost() const = 0;
};

// What the engine tells telemetry; called on the engine's thread.
struct EngineObserver {
  std::function<void(double seconds)> first_token = [](double) {};
  std::function<void(double seconds)> token_gap = [](double) {};
  std::function<void(int prompt, int sampled)> tokens = [](int, int) {};
  std::function<void(context::Method, double seconds)> compaction = [](context::Method, double) {};
  std::function<void()> compacted_early = [] {};  // one of `compaction`, that memory asked for
  std::function<void()> preempted = [] {};
  std::function<void(int tokens)> prefix_hit = [](int) {};  // of a prompt, found in the cache
  std::function<void(double seconds, int rows)> step = [](double, int) {};
};

}  // namespace palimpsest::inference
