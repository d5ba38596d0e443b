#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/compaction/carried.h"
#include "common/context/log.h"
#include "common/tokenizer/stop_strings.h"
#include "common/tokenizer/tokenizer.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/engine.h"
#include "services/inference/core/page_pool.h"
#include "services/inference/engine/query_store.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

static_assert(kCarriedSlotBytes == compaction::kCarriedBytes);

// The cache side of a sequence: a block table and how many slots each KV head of each layer has.
// The slots of a head stand without gaps, ascending by source position: slot i is in page table[i /
// kPageSlots]. Heads may differ in their numbers after an event; a page holds slot i of all of
// them. Forks share pages; a page that is written to is copied first unless it is ours alone.
class SequenceCache {
 public:
  // `flips`: how many weights the replica has had before those that will fill it.
  SequenceCache(PagePool& pages, StepDevice& device, context::Shape shape, QueryStore queries,
                int64_t flips)
      : pages_(pages),
        device_(device),
        state_(shape),
        lengths_(static_cast<size_t>(shape.layers) * shape.kv_heads, 0),
        queries_(std::move(queries)),
        flips_(flips) {}
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;
  std::unique_ptr<SequenceCache> Fork() const;

  const context::ContextState& state() const { return state_; }
  QueryStore& queries() { return queries_; }
  const QueryStore& queries() const { return queries_; }
  std::span<const int32_t> table() const { return table_; }
  std::span<const int32_t> lengths() const { return lengths_; }  // [L * Hk] slots of each head
  // From now on slots bring what they receive from event to event. Before the first event.
  void CarryImportance() { carried_.resize(lengths_.size()); }
  // Of recorded queries, and of what is carried (as of the last event that is over).
  int64_t bytes_beside_pages() const { return queries_.bytes() + carried_bytes_; }
  int64_t carried_bytes() const { return carried_bytes_; }
  // Of heads [first, first + count) of a layer; empty: nothing is carried.
  std::span<compaction::CarriedImportance> carried(int layer, int first, int count) {
    if (carried_.empty()) return {};
    return std::span(carried_).subspan(Index(layer, first), count);
  }
  // How many weights the replica had had before those that made the first of it.
  int64_t flips() const { return flips_; }
  // Pages that hold the first tokens and nothing else. Before anything was processed.
  void Adopt(std::span<const int32_t> pages);

  // Pages that Reserve and OwnFrom would take.
  int64_t PagesToReserve(int32_t count) const;
  int64_t PagesToOwn(context::Range window) const;
  // Makes room for `count` more slots of every head. The caller has reserved the pages.
  void Reserve(int32_t count);
  // What was written in all layers is part of the sequence now.
  void Append(int32_t count);

  // Makes the pages from the window's first slot on ours alone. Before they are rewritten.
  void OwnFrom(context::Range window);
  // Of the window `kept` slots stay under this head; the device has rewritten it so.
  void Shrink(int layer, int head, context::Range window, int32_t kept);
  // All heads of all layers are rewritten: the log goes on, pages that nobody needs any more are
  // let go.
  absl::Status Finish(const context::Event& event);

 private:
  size_t Index(int layer, int head) const {
    return static_cast<size_t>(layer) * state_.shape().kv_heads + head;
  }
  int32_t longest() const { return *std::max_element(lengths_.begin(), lengths_.end()); }
  int32_t shortest() const { return *std::min_element(lengths_.begin(), lengths_.end()); }
  int32_t FirstSlotOf(context::Range window) const;
  int64_t SharedFrom(int32_t slot) const;
  void OwnFrom(int32_t slot);

  PagePool& pages_;
  StepDevice& device_;
  context::ContextState state_;
  std::vector<int32_t> table_;
  std::vector<int32_t> lengths_;                        // [L * Hk]
  std::vector<compaction::CarriedImportance> carried_;  // [L * Hk], or none
  int64_t carried_bytes_ = 0;
  QueryStore queries_;
  int64_t flips_;
};

// The samples of one request: the prompt is processed once and then forked.
struct RequestState {
  GenerationRequest request;
  std::shared_ptr<GenerationSink> sink;
  absl::Time arrived;
  double tag = 0;                        // in the queue, by fair shares
  int64_t order = 0;                     // of admission
  absl::Status cancel_status;            // set before `cancelled`
  std::atomic<bool> cancelled = false;   // by any thread
  std::map<int32_t, int> prompt_counts;  // for the repetition penalty; filled when asked for
};

enum class StopCause { kNone, kStop, kLength };

// One sample (or, with sample < 0, the prompt of a request before it is forked).
struct Sequence {
  std::shared_ptr<RequestState> owner;
  int32_t sample = -1;
  std::unique_ptr<SequenceCache> cache;  // null while preempted
  size_t events_in_cache = 0;            // how many of `events` the cache has seen
  bool in_event = false;                 // its pages are being rewritten: it stands still
  bool waits = false;                    // its event is due and finds no pages: it stands still
  int32_t kv_epoch = 0;                  // how often the cache has been lost
  int32_t prompt_tokens = 0;             // P
  // Where this request began to add tokens, and where it began to sample.
  int32_t step_begin = 0, response_begin = 0;
  std::vector<int32_t> turn_begins;  // of a session's steps; empty otherwise
  std::vector<int32_t> tokens;
  std::vector<rl::Origin> origins;
  std::vector<float> logprobs;
  std::vector<context::Event> events;
  std::vector<rl::Span> spans;
  std::vector<float> prompt_logprobs;  // of a prompt that is asked for them, and of its samples
  std::vector<Alternatives> prompt_top;
  std::map<int32_t, int> counts;  // sampled ids
  int32_t sampled = 0;
  int32_t since_message = 0;  // sampled tokens since the last budget message
  absl::Time started, last_token;
  std::optional<StreamDecoder> decoder;
  std::optional<StopStrings> stops;
  std::string text;
  std::optional<std::string> stop_string;
  StopCause stopped = StopCause::kNone;
  // Earlier steps of the session drew otherwise than this one, or not from the whole distribution.
  bool mixed_sampling = false;
  bool compacted = false;  // the event of a step that makes one is under way

  int32_t processed() const { return cache->state().processed(); }
  int32_t pending() const { return static_cast<int32_t>(tokens.size()) - processed(); }
  // Of these, what a forward pass may take: an event that was asked for comes before the last.
  int32_t runnable() const { return pending() - (compacts_only() ? 1 : 0); }
  bool has_rows() const { return cache && !in_event && !waits && runnable() > 0; }
  // The next event of the log that the cache has yet to see; null when it has seen all.
  const context::Event* NextInLog() const {
    return events_in_cache < events.size() ? &events[events_in_cache] : nullptr;
  }
  // Smaller is older: by request, a prompt before its samples.
  std::pair<int64_t, int32_t> Age() const { return {owner->order, sample}; }
  void LoseCache() {
    cache.reset();
    in_event = compacted = false;
    events_in_cache = 0;
    ++kv_epoch;
  }
  context::PolicyInput PolicyView(const context::ContextState& state) const {
    return {.state = state,
            .prompt_tokens = prompt_tokens,
            .turn_begins = turn_begins,
            .step_begins = !turn_begins.empty() && state.processed() == step_begin};
  }
  context::PolicyInput PolicyView() const { return PolicyView(cache->state()); }
  // A session's step that makes an event and no token.
  bool compacts_only() const { return owner->request.step && owner->request.step->compact; }
  void CountSampled(int32_t token) {
    ++counts[token];
    ++sampled;
    ++since_message;
  }
  // The same log, for another session; pages are shared.
  std::unique_ptr<Sequence> Fork() const;
  // It stands where that log ends, which was checked, as one that gave its cache back.
  void StandAt(const rl::Rollout& log);
  // Nothing of the step before is left but the log and the cache.
  void BeginStep();
  rl::Rollout ToRollout(rl::FinishReason reason, absl::Time now) const;
  void AddSpan(PolicyVersion version, int32_t count);
};

// How many of the pending tokens may be processed before the next event falls due; at least 1
// unless `most` is 0.
int32_t ChunkBeforeNextEvent(const Sequence& s, int32_t most);

}  // namespace palimpsest::inference
