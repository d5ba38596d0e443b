#include "common/context/policy.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"

namespace palimpsest::context {
namespace {

int32_t ProtectedEnd(const ContextPolicy& policy, int32_t prompt_tokens) {
  return policy.protect.value_or(prompt_tokens);
}

bool HasSlots(const ContextState::Block& block) {
  return !block.compact || block.kept.max_count() > 0;
}

// May a window cover the block, but for the protected part of a raw one?
bool Coverable(const ContextPolicy& policy, const ContextState::Block& block, int32_t first) {
  if (block.compact) return !policy.stack && block.range.begin >= first;
  return block.range.end > first;
}

// Slots of one window, per layer and KV head, as it is made longer.
class WindowCount {
 public:
  explicit WindowCount(Shape shape)
      : shape_(shape), compact_(static_cast<size_t>(shape.layers) * shape.kv_heads, 0) {}

  void AddRaw(int32_t n) { raw_ += n; }
  void AddCompact(const KeptPositions& kept) {
    size_t i = 0;
    for (int layer = 0; layer < shape_.layers; ++layer) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        compact_[i] += static_cast<int32_t>(kept.at(layer, head).size());
        most_ = std::max(most_, compact_[i++]);
      }
    }
  }
  int32_t most() const { return raw_ + most_; }

 private:
  Shape shape_;
  std::vector<int32_t> compact_;
  int32_t raw_ = 0;
  int32_t most_ = 0;
};

// From the first unprotected block that has a slot to the first place where some head has `slots`.
std::optional<Range> FindWindow(const ContextPolicy& policy, const ContextState& state,
                                int32_t first, int32_t slots) {
  const auto& blocks = state.blocks();
  auto block = std::find_if(blocks.begin(), blocks.end(), [&](const ContextState::Block& b) {
    return Coverable(policy, b, first) && HasSlots(b);
  });
  if (block == blocks.end()) return std::nullopt;
  const int32_t begin = std::max(block->range.begin, first);
  WindowCount count(state.shape());
  for (; block != blocks.end() && Coverable(policy, *block, first); ++block) {
    if (block->compact) {
      count.AddCompact(block->kept);
      if (count.most() >= slots) return Range{begin, block->range.end};
      continue;
    }
    const Range part = {std::max(block->range.begin, begin), block->range.end};
    const int32_t missing = slots - count.most();
    if (part.size() >= missing) return Range{begin, part.begin + missing};
    count.AddRaw(part.size());
  }
  return std::nullopt;
}

bool DropsSomething(const ContextState& state, Range window, Method method, double keep_ratio) {
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      const int32_t slots = state.CountSlots(layer, head, window);
      if (KeptCount(method, keep_ratio, slots) < slots) return true;
    }
  }
  return false;
}

Range ReferenceRange(const ContextPolicy& policy, int32_t at, Range window) {
  if (!UsesReference(policy.method, policy.parameters.chooser)) return {};
  const int32_t begin = std::max(0, at - policy.reference_tokens);
  const int32_t behind = std::max(begin, window.end);
  return {policy.after_window && behind < at ? behind : begin, at};
}

EventDraft Draft(const ContextPolicy& policy, int32_t at, Range window, double keep_ratio) {
  return {.at = at,
          .window = window,
          .method = policy.method,
          .parameters = policy.parameters,
          .reference = ReferenceRange(policy, at, window),
          .keep_ratio = keep_ratio};
}

// Everything unprotected before the last n_protect_turns finished turns, when enough of them are
// whole. A step begins, so the latest turn that has begun is finished.
std::optional<Range> TurnsWindow(const ContextPolicy& policy, const Turns& turns,
                                 const PolicyInput& input, int32_t first) {
  const auto& blocks = input.state.blocks();
  int32_t compacted = 0;  // end of the last compact block
  int32_t begin = first;
  int32_t limit = input.state.processed();
  for (const auto& block : blocks) {
    if (block.compact) compacted = block.range.end;
  }
  if (policy.stack) {
    auto block = std::find_if(blocks.begin(), blocks.end(), [&](const ContextState::Block& b) {
      return Coverable(policy, b, first);
    });
    if (block == blocks.end()) return std::nullopt;
    begin = std::max(first, block->range.begin);
    limit = block->range.end;
  }
  const auto finished =
      input.turn_begins.first(std::lower_bound(input.turn_begins.begin(), input.turn_begins.end(),
                                               input.state.processed()) -
                              input.turn_begins.begin());
  const auto whole = finished.end() - std::lower_bound(finished.begin(), finished.end(), compacted);
  if (whole < turns.max_turns.value_or(turns.n_protect_turns + 1)) return std::nullopt;
  const size_t older = finished.size() - static_cast<size_t>(turns.n_protect_turns);
  const int32_t end = older < finished.size() ? finished[older] : input.state.processed();
  const Range window = {begin, std::min(end, limit)};
  if (!input.state.CheckWindow(window).ok()) return std::nullopt;
  return window;
}

struct Decider {
  const ContextPolicy& policy;
  const PolicyInput& input;
  int32_t first;  // protected tokens

  Decision operator()(const NoTrigger&) const { return Nothing{}; }
  Decision operator()(const Manual&) const { return Nothing{}; }

  Decision operator()(const KvBudget& t) const {
    const int32_t live = input.state.live_count();
    const bool due = live >= t.budget;
    if (!due && !(input.pressure && t.early > 0 && live >= t.EarliestLive())) return Nothing{};
    return Over(FindWindow(policy, input.state, first, t.window), t.keep_ratio,
                due ? Decision(OutOfRoom{}) : Nothing{});
  }

  Decision operator()(const Segments& t) const {
    const int32_t generated = input.state.processed() - input.prompt_tokens;
    if (generated <= 0 || generated % t.every != 0) return Nothing{};
    return Over(FindWindow(policy, input.state, first, t.window), t.keep_ratio, Nothing{});
  }

  Decision operator()(const Turns& t) const {
    if (!input.step_begins) return Nothing{};
    return Over(TurnsWindow(policy, t, input, first), t.keep_ratio, Nothing{});
  }

  Decision Over(std::optional<Range> window, double keep_ratio, Decision otherwise) const {
    if (!window || !DropsSomething(input.state, *window, policy.method, keep_ratio)) {
      return otherwise;
    }
    return Draft(policy, input.state.processed(), *window, keep_ratio);
  }
};

// A lower bound of the next event's `at`; max: there is none.
struct NextAt {
  const PolicyInput& input;

  int64_t Soonest() const {
    return std::max(input.state.processed(), input.state.last_event_at() + 1);
  }
  int64_t operator()(const NoTrigger&) const { return std::numeric_limits<int64_t>::max(); }
  int64_t operator()(const KvBudget& t) const {
    return std::max(Soonest(),
                    int64_t{input.state.processed()} + t.EarliestLive() - input.state.live_count());
  }
  int64_t operator()(const Segments& t) const {
    const int64_t generated = std::max<int64_t>(1, Soonest() - input.prompt_tokens);
    return input.prompt_tokens + (generated + t.every - 1) / t.every * t.every;
  }
  int64_t operator()(const Turns&) const { return Soonest(); }
  int64_t operator()(const Manual&) const { return Soonest(); }
};

}  // namespace

Decision Decide(const ContextPolicy& policy, const PolicyInput& input) {
  if (input.state.processed() <= input.state.last_event_at()) return Nothing{};
  return std::visit(Decider{policy, input, ProtectedEnd(policy, input.prompt_tokens)},
                    policy.trigger);
}

int32_t LiveCountAfter(const ContextState& state, const EventDraft& draft) {
  int32_t most = 0;
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      const int32_t all = state.CountSlots(layer, head, {0, state.processed()});
      const int32_t slots = state.CountSlots(layer, head, draft.window);
      most = std::max(most, all - slots + KeptCount(draft.method, draft.keep_ratio, slots));
    }
  }
  return most;
}

absl::StatusOr<EventDraft> DraftManual(const ContextPolicy& policy, const PolicyInput& input,
                                       Range window) {
  const auto* manual = std::get_if<Manual>(&policy.trigger);
  if (manual == nullptr) {
    return absl::InvalidArgumentError("trigger is not manual: its events are not asked for");
  }
  const ContextState& state = input.state;
  if (state.processed() <= state.last_event_at()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("at=%d has an event already", state.processed()));
  }
  RETURN_IF_ERROR(state.CheckWindow(window));
  const int32_t first = ProtectedEnd(policy, input.prompt_tokens);
  if (window.begin < first) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "window.begin=%d lies in the first %d tokens, which are protected", window.begin, first));
  }
  for (const auto& block : state.blocks()) {
    if (policy.stack && block.compact && block.range.end > window.begin &&
        block.range.begin < window.end) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "window=[%d, %d) holds the compact block [%d, %d), which stack keeps as it is",
          window.begin, window.end, block.range.begin, block.range.end));
    }
  }
  if (!DropsSomething(state, window, policy.method, manual->keep_ratio)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window=[%d, %d) with keep_ratio=%g: the event would drop nothing",
                        window.begin, window.end, manual->keep_ratio));
  }
  return Draft(policy, state.processed(), window, manual->keep_ratio);
}

int32_t RecordQueriesFrom(const ContextPolicy& policy, const PolicyInput& input) {
  constexpr int64_t kNever = std::numeric_limits<int32_t>::max();
  if (!UsesReference(policy.method, policy.parameters.chooser) ||
      policy.parameters.reference_kind == ReferenceKind::kRandom) {
    return kNever;
  }
  const int64_t next = std::visit(NextAt{input}, policy.trigger);
  return static_cast<int32_t>(std::clamp<int64_t>(next - policy.reference_tokens, 0, kNever));
}

}  // namespace palimpsest::context
