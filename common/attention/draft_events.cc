#include "common/attention/draft_events.h"

#include <variant>

#include "absl/strings/str_format.h"

namespace palimpsest::attention {
namespace {

context::Event EventOf(const context::EventDraft& draft) {
  return {.at = draft.at,
          .window = draft.window,
          .method = draft.method,
          .parameters = draft.parameters,
          .reference = draft.reference};
}

// The first slots of the window, as many as the event will keep.
context::KeptPositions FirstSlots(const context::ContextState& state,
                                  const context::EventDraft& draft) {
  context::KeptPositions kept(state.shape());
  std::vector<int32_t> slots;
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      slots.clear();
      state.AppendSlots(layer, head, draft.window, slots);
      slots.resize(
          context::KeptCount(draft.method, draft.keep_ratio, static_cast<int32_t>(slots.size())));
      kept.AddHead(slots);
    }
  }
  return kept;
}

}  // namespace

absl::StatusOr<std::vector<ReplayEvent>> DraftEvents(const context::ContextPolicy& policy,
                                                     context::Shape shape, int32_t prompt_tokens,
                                                     int32_t rows) {
  if (std::holds_alternative<context::Turns>(policy.trigger) ||
      std::holds_alternative<context::Manual>(policy.trigger)) {
    return absl::InvalidArgumentError("trigger: turns and manual say nothing of a given sequence");
  }
  RETURN_IF_ERROR(context::Validate(policy, prompt_tokens));
  std::vector<ReplayEvent> events;
  context::ContextState state(shape);
  for (int32_t position = 0; position < rows; ++position) {
    const context::Decision decision =
        context::Decide(policy, {.state = state, .prompt_tokens = prompt_tokens});
    if (std::holds_alternative<context::OutOfRoom>(decision)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("no window fits any more at position %d of %d", position, rows));
    }
    if (const auto* draft = std::get_if<context::EventDraft>(&decision)) {
      context::Event applied = EventOf(*draft);
      events.push_back({.event = applied, .keep_ratio = draft->keep_ratio});
      applied.kept = FirstSlots(state, *draft);
      RETURN_IF_ERROR(state.Apply(applied));
    }
    state.Append();
  }
  return events;
}

}  // namespace palimpsest::attention
