#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/attention/live_slots.h"
#include "common/base/clock.h"
#include "common/context/log.h"
#include "common/tokenizer/stop_strings.h"
#include "common/tokenizer/tokenizer.h"
#include "services/inference/core/engine.h"
#include "services/inference/engine/kv_pool_torch.h"
#include "services/inference/engine/query_store_torch.h"

namespace palimpsest::inference {

// The cache side of a sequence: which rows hold what. Forks share rows.
class SequenceCache {
 public:
  SequenceCache(KvPool& pool, context::Shape shape, QueryStore queries)
      : pool_(pool),
        state_(shape),
        live_(static_cast<size_t>(shape.layers) * shape.kv_heads),
        queries_(std::move(queries)) {}
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;
  std::unique_ptr<SequenceCache> Fork() const;

  const context::ContextState& state() const { return state_; }
  QueryStore& queries() { return queries_; }
  const QueryStore& queries() const { return queries_; }
  // Live slots of the KV heads of one layer; a slot is a row of the pool.
  std::span<attention::HeadSlots> layer(int l) {
    return std::span(live_).subspan(static_cast<size_t>(l) * state_.shape().kv_heads,
                                    state_.shape().kv_heads);
  }

  // `rows` hold the next positions, in every layer and head.
  void Append(const std::vector<int64_t>& rows);
  // The event has been solved: its window's rows are let go, `rows` hold what was kept.
  absl::Status Replace(const context::Event& event, const std::vector<int64_t>& rows);

 private:
  KvPool& pool_;
  context::ContextState state_;
  std::vector<attention::HeadSlots> live_;  // [L * Hk]
  std::multimap<int32_t, int64_t> rows_;    // by position (raw) or window begin (compact)
  QueryStore queries_;
};

// The samples of one request: the prompt is processed once and then forked.
struct RequestState {
  GenerationRequest request;
  std::shared_ptr<GenerationSink> sink;
  absl::Time arrived;
  int64_t bytes_each = 0;                // reserved per running sample
  absl::Status cancel_status;            // set before `cancelled`
  std::atomic<bool> cancelled = false;   // by any thread
  std::map<int32_t, int> prompt_counts;  // for the repetition penalty; filled when asked for
};

enum class StopCause { kNone, kStop, kLength };

// One sample (or, with sample < 0, the prompt of a request before it is forked).
struct Sequence {
  std::shared_ptr<RequestState> owner;
  int32_t sample = -1;
  std::unique_ptr<SequenceCache> cache;
  std::vector<int32_t> tokens;
  std::vector<rl::Origin> origins;
  std::vector<float> logprobs;
  std::vector<context::Event> events;
  std::vector<rl::Span> spans;
  std::map<int32_t, int> counts;  // sampled ids
  int32_t sampled = 0;
  int32_t since_message = 0;  // sampled tokens since the last budget message
  absl::Time started, last_token;
  std::optional<StreamDecoder> decoder;
  std::optional<StopStrings> stops;
  std::string text;
  std::optional<std::string> stop_string;
  StopCause stopped = StopCause::kNone;

  int32_t processed() const { return cache->state().processed(); }
  int32_t pending() const { return static_cast<int32_t>(tokens.size()) - processed(); }
  context::PolicyInput PolicyView() const {
    return {.state = cache->state(),
            .prompt_tokens = static_cast<int32_t>(owner->request.prompt.size())};
  }
  rl::Rollout ToRollout(rl::FinishReason reason, absl::Time now) const;
  void AddSpan(PolicyVersion version, int32_t count);
};

// How many of the pending tokens may be processed before the next event falls due; at least 1
// unless `most` is 0.
int32_t ChunkBeforeNextEvent(const Sequence& s, int32_t most);

}  // namespace palimpsest::inference
