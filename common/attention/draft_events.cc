#include "common/attention/draft_events.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_format.h"
#include "common/attention/first_slots.h"

namespace palimpsest::attention {
namespace {

context::Event EventOf(const context::EventDraft& draft) {
  return {.at = draft.at,
          .window = draft.window,
          .method = draft.method,
          .parameters = draft.parameters,
          .reference = draft.reference};
}

}  // namespace

absl::StatusOr<std::vector<ReplayEvent>> DraftEvents(const context::ContextPolicy& policy,
                                                     context::Shape shape, int32_t prompt_tokens,
                                                     int32_t rows,
                                                     std::span<const int32_t> turn_begins) {
  const bool turns = std::holds_alternative<context::Turns>(policy.trigger);
  if (std::holds_alternative<context::Manual>(policy.trigger) || (turns && turn_begins.empty())) {
    return absl::InvalidArgumentError(
        "trigger: manual, and turns without turn_begins, say nothing of a given sequence");
  }
  RETURN_IF_ERROR(context::Validate(policy, prompt_tokens));
  std::vector<ReplayEvent> events;
  context::ContextState state(shape);
  for (int32_t position = 0; position < rows; ++position) {
    const bool step_begins = std::binary_search(turn_begins.begin(), turn_begins.end(), position);
    const context::Decision decision = context::Decide(policy, {.state = state,
                                                                .prompt_tokens = prompt_tokens,
                                                                .turn_begins = turn_begins,
                                                                .step_begins = step_begins});
    if (std::holds_alternative<context::OutOfRoom>(decision)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("no window fits any more at position %d of %d", position, rows));
    }
    if (const auto* draft = std::get_if<context::EventDraft>(&decision)) {
      context::Event applied = EventOf(*draft);
      events.push_back({.event = applied, .keep_ratio = draft->keep_ratio});
      applied.kept = FirstSlots(state, draft->window, draft->method, draft->keep_ratio);
      RETURN_IF_ERROR(state.Apply(applied));
    }
    state.Append();
  }
  return events;
}

}  // namespace palimpsest::attention
