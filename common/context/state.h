#pragma once

#include "common/context/types.h"

namespace palimpsest::context {

// What attention sees of one sequence, without the numbers: its blocks and, per layer and KV head,
// the source positions of its live slots. Inference, the checker, policies and replay all advance
// this one class. Invariant: blocks tile [0, processed) in order; slots of a block lie inside it,
// ascending.
class ContextState {
 public:
  struct Block {
    Range range = {};
    bool compact =
        false;  // made by one event; then `kept` holds its slots, else every position is a slot
    KeptPositions kept = {};
  };

  explicit ContextState(Shape shape) : shape_(shape) {}

  Shape shape() const { return shape_; }
  int32_t processed() const { return processed_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  // The most slots in any layer and KV head. O(1).
  int32_t live_count() const { return raw_slots_ + max_compact_slots_; }
  // `at` of the latest event; -1 before the first. The next event's `at` is greater.
  int32_t last_event_at() const { return last_event_at_; }

  // `n` more tokens have their K/V in the cache.
  void Append(int32_t n = 1);

  // The window is replaced by the event's kept slots. Refuses, naming the field, what the log does
  // not allow: at != processed() or not past the last event's, a window that is empty, past `at` or
  // cuts a compact block, kept positions that are not live slots of the window, not ascending, or
  // of another shape; a markovian event that keeps some, an attention_matching one that keeps none
  // of a head's. Parameters, reference and digest are not looked at. On refusal nothing has
  // changed.
  absl::Status Apply(const Event& event);

  // Is `window` a run of whole blocks, up to cuts of raw ones, within [0, processed())? The status
  // begins with the field's name.
  absl::Status CheckWindow(Range window) const;

  // Is `p` strictly inside a compact block (so that no window may begin or end there)?
  bool InsideCompact(int32_t p) const;

  // Number of slots of (layer, head) in `range`, and their positions appended to `out`, ascending.
  int32_t CountSlots(int layer, int head, Range range) const;
  void AppendSlots(int layer, int head, Range range, std::vector<int32_t>& out) const;

 private:
  absl::Status CheckKept(const Event& event) const;
  void Replace(const Event& event);
  void Recount();

  Shape shape_;
  int32_t processed_ = 0;
  int32_t last_event_at_ = -1;
  std::vector<Block> blocks_;  // none is of no positions; neighbouring raw blocks are merged
  int32_t raw_slots_ = 0;
  int32_t max_compact_slots_ = 0;  // of compact blocks, the most of any head
};

}  // namespace palimpsest::context
