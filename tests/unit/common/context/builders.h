#pragma once

#include <algorithm>
#include <set>
#include <vector>

#include "common/base/random.h"
#include "common/context/policy.h"

// Values for the tests of this room.
namespace palimpsest::context {

// heads: layer-major.
inline KeptPositions MakeKept(Shape shape, const std::vector<std::vector<int32_t>>& heads) {
  KeptPositions kept(shape);
  for (const auto& positions : heads) kept.AddHead(positions);
  return kept;
}

// An evict event, which keeps what it keeps.
inline Event MakeEvict(int32_t at, Range window, KeptPositions kept) {
  Event event;
  event.at = at;
  event.window = window;
  event.method = Method::kEvict;
  event.parameters.chooser = Chooser::kRecent;
  event.kept = std::move(kept);
  return event;
}

// What attention sees, kept the slow way: a set of positions per head, a block's number per
// position.
class NaiveState {
 public:
  explicit NaiveState(Shape shape)
      : shape_(shape), live_(static_cast<size_t>(shape.layers * shape.kv_heads)) {}

  void Append() {
    for (auto& head : live_) head.insert(static_cast<int32_t>(block_of_.size()));
    block_of_.push_back(0);
  }
  void Apply(const Event& event) {
    ++events_;
    for (int32_t p = event.window.begin; p < event.window.end; ++p) {
      block_of_[p] = events_;
      for (auto& head : live_) head.erase(p);
    }
    for (int layer = 0; layer < shape_.layers; ++layer) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const auto kept = event.kept.at(layer, head);
        live_[layer * shape_.kv_heads + head].insert(kept.begin(), kept.end());
      }
    }
  }
  int32_t size() const { return static_cast<int32_t>(block_of_.size()); }
  bool compact(int32_t p) const { return block_of_[p] != 0; }
  // May a window begin or end at p?
  bool aligned(int32_t p) const {
    return p <= 0 || p >= size() || block_of_[p] == 0 || block_of_[p] != block_of_[p - 1];
  }
  const std::vector<std::set<int32_t>>& live() const { return live_; }
  int32_t live_count() const {
    size_t most = 0;
    for (const auto& head : live_) most = std::max(most, head.size());
    return static_cast<int32_t>(most);
  }
  std::vector<int32_t> Slots(size_t head, Range range) const {
    std::vector<int32_t> out;
    for (int32_t p : live_[head]) {
      if (range.contains(p)) out.push_back(p);
    }
    return out;
  }
  int32_t MostSlots(Range range) const {
    size_t most = 0;
    for (size_t h = 0; h < live_.size(); ++h) most = std::max(most, Slots(h, range).size());
    return static_cast<int32_t>(most);
  }

 private:
  Shape shape_;
  int events_ = 0;
  std::vector<int> block_of_;  // 0: raw, else the number of the event that made its block
  std::vector<std::set<int32_t>> live_;
};

// As an engine does it, but with a random choice. `exact`: KeptCount slots; else any number that
// the method allows, so that heads come to differ.
inline Event RandomEvent(const EventDraft& draft, const NaiveState& state, Shape shape, bool exact,
                         RandomStream& random) {
  Event event;
  event.at = draft.at;
  event.window = draft.window;
  event.method = draft.method;
  event.parameters = draft.parameters;
  event.reference = draft.reference;
  event.kept = KeptPositions(shape);
  for (size_t h = 0; h < state.live().size(); ++h) {
    std::vector<int32_t> slots = state.Slots(h, draft.window);
    const auto w = static_cast<int32_t>(slots.size());
    int64_t keep = KeptCount(draft.method, draft.keep_ratio, w);
    if (!exact && w > 0 && draft.method == Method::kEvict) keep = random.Between(0, w);
    if (!exact && w > 0 && draft.method == Method::kAttentionMatching) keep = random.Between(1, w);
    while (static_cast<int64_t>(slots.size()) > keep) {
      slots.erase(slots.begin() + random.Below(static_cast<int64_t>(slots.size())));
    }
    event.kept.AddHead(slots);
  }
  return event;
}

}  // namespace palimpsest::context
