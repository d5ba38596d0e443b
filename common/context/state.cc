#include "common/context/state.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest::context {
namespace {

Range Intersect(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

std::span<const int32_t> Inside(std::span<const int32_t> ascending, Range range) {
  const auto begin = std::lower_bound(ascending.begin(), ascending.end(), range.begin);
  const auto end = std::lower_bound(begin, ascending.end(), range.end);
  return {begin, end};
}

bool StrictlyAscending(std::span<const int32_t> positions) {
  return std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<>()) ==
         positions.end();
}

}  // namespace

void ContextState::Append(int32_t n) {
  if (n <= 0) return;
  if (blocks_.empty() || blocks_.back().compact) {
    blocks_.push_back({.range = {processed_, processed_}, .compact = false, .kept = {}});
  }
  processed_ += n;
  raw_slots_ += n;
  blocks_.back().range.end = processed_;
}

absl::Status ContextState::Apply(const Event& event) {
  if (event.at != processed_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("at=%d is not the processed count %d", event.at, processed_));
  }
  if (event.at <= last_event_at_) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "at=%d is not greater than the previous event's at=%d", event.at, last_event_at_));
  }
  RETURN_IF_ERROR(CheckWindow(event.window));
  RETURN_IF_ERROR(CheckKept(event));
  Replace(event);
  Recount();
  last_event_at_ = event.at;
  return absl::OkStatus();
}

absl::Status ContextState::CheckWindow(Range window) const {
  if (window.begin < 0 || window.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window=[%d, %d) is not a range of positions", window.begin, window.end));
  }
  if (window.end > processed_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window.end=%d is past the processed count %d", window.end, processed_));
  }
  if (InsideCompact(window.begin)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window.begin=%d cuts a compact block", window.begin));
  }
  if (InsideCompact(window.end)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window.end=%d cuts a compact block", window.end));
  }
  return absl::OkStatus();
}

absl::Status ContextState::CheckKept(const Event& event) const {
  if (event.kept.shape() != shape_ || shape_.layers <= 0 || shape_.kv_heads <= 0 ||
      !event.kept.complete()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "kept of %d layers x %d KV heads does not fill the shape %d x %d",
        event.kept.shape().layers, event.kept.shape().kv_heads, shape_.layers, shape_.kv_heads));
  }
  std::vector<int32_t> live;
  for (int layer = 0; layer < shape_.layers; ++layer) {
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const auto kept = event.kept.at(layer, head);
      const auto refuse = [&](std::string_view why) {
        return absl::InvalidArgumentError(
            absl::StrFormat("kept of layer %d, KV head %d: %s", layer, head, why));
      };
      if (!StrictlyAscending(kept)) return refuse("positions are not ascending");
      live.clear();
      AppendSlots(layer, head, event.window, live);
      if (!std::includes(live.begin(), live.end(), kept.begin(), kept.end())) {
        return refuse("a position is not a live slot of the window");
      }
      if (event.method == Method::kMarkovian && !kept.empty()) {
        return refuse("markovian keeps nothing");
      }
      if (event.method == Method::kAttentionMatching && kept.empty() && !live.empty()) {
        return refuse("attention_matching keeps at least one slot");
      }
    }
  }
  return absl::OkStatus();
}

// A raw block may leave a part on either side of the window; a compact one lies wholly on one side.
void ContextState::Replace(const Event& event) {
  std::vector<Block> after;
  after.reserve(blocks_.size() + 2);
  const auto move_those_in = [&](Range side) {
    for (Block& block : blocks_) {
      const Range part = Intersect(block.range, side);
      if (part.empty()) continue;
      after.push_back({.range = part, .compact = block.compact, .kept = std::move(block.kept)});
    }
  };
  move_those_in({0, event.window.begin});
  after.push_back({.range = event.window, .compact = true, .kept = event.kept});
  move_those_in({event.window.end, processed_});
  blocks_ = std::move(after);
}

void ContextState::Recount() {
  raw_slots_ = 0;
  max_compact_slots_ = 0;
  for (const Block& block : blocks_) {
    if (!block.compact) raw_slots_ += block.range.size();
  }
  for (int layer = 0; layer < shape_.layers; ++layer) {
    for (int head = 0; head < shape_.kv_heads; ++head) {
      int32_t slots = 0;
      for (const Block& block : blocks_) {
        if (block.compact) slots += static_cast<int32_t>(block.kept.at(layer, head).size());
      }
      max_compact_slots_ = std::max(max_compact_slots_, slots);
    }
  }
}

bool ContextState::InsideCompact(int32_t p) const {
  const auto block = std::upper_bound(blocks_.begin(), blocks_.end(), p,
                                      [](int32_t q, const Block& b) { return q < b.range.end; });
  return block != blocks_.end() && block->compact && block->range.begin < p;
}

int32_t ContextState::CountSlots(int layer, int head, Range range) const {
  int32_t count = 0;
  for (const Block& block : blocks_) {
    const Range part = Intersect(block.range, range);
    if (part.empty()) continue;
    count += block.compact ? static_cast<int32_t>(Inside(block.kept.at(layer, head), part).size())
                           : part.size();
  }
  return count;
}

void ContextState::AppendSlots(int layer, int head, Range range, std::vector<int32_t>& out) const {
  for (const Block& block : blocks_) {
    const Range part = Intersect(block.range, range);
    if (part.empty()) continue;
    if (block.compact) {
      const auto kept = Inside(block.kept.at(layer, head), part);
      out.insert(out.end(), kept.begin(), kept.end());
    } else {
      for (int32_t p = part.begin; p < part.end; ++p) out.push_back(p);
    }
  }
}

}  // namespace palimpsest::context
