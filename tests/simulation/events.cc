#include "tests/simulation/events.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "common/context/log.h"

namespace palimpsest::simulation {
namespace {

using context::ContextState;
using context::Event;
using context::EventDraft;

// Of the window's slots in each head, those whose draws are the smallest.
context::KeptPositions Keep(const ContextState& state, const EventDraft& draft, uint64_t seed) {
  context::KeptPositions kept(kShape);
  for (int layer = 0; layer < kShape.layers; ++layer) {
    for (int head = 0; head < kShape.kv_heads; ++head) {
      std::vector<int32_t> slots;
      state.AppendSlots(layer, head, draft.window, slots);
      const auto count = static_cast<size_t>(
          context::KeptCount(draft.method, draft.keep_ratio, static_cast<int32_t>(slots.size())));
      std::sort(slots.begin(), slots.end(), [&](int32_t a, int32_t b) {
        const auto draw = [&](int32_t slot) {
          return MixSeed({seed, static_cast<uint64_t>(draft.at), static_cast<uint64_t>(layer),
                          static_cast<uint64_t>(head), static_cast<uint64_t>(slot)});
        };
        return draw(a) < draw(b);
      });
      slots.resize(count);
      std::sort(slots.begin(), slots.end());
      kept.AddHead(slots);
    }
  }
  return kept;
}

}  // namespace

std::vector<Event> EventsOf(const context::ContextPolicy& policy, const rl::Rollout& rollout) {
  std::vector<Event> events;
  ContextState state(kShape);
  while (state.processed() < std::ssize(rollout.tokens)) {
    const context::Decision decision =
        context::Decide(policy, {.state = state, .prompt_tokens = rollout.prompt_tokens});
    if (const auto* draft = std::get_if<EventDraft>(&decision)) {
      Event event{.at = draft->at,
                  .window = draft->window,
                  .method = draft->method,
                  .parameters = draft->parameters,
                  .reference = draft->reference,
                  .kept = Keep(state, *draft, rollout.seed),
                  .seconds = 0.25};
      if (!state.Apply(event).ok()) return {};  // no log at all: nobody's is equal to it
      events.push_back(std::move(event));
    }
    state.Append();
  }
  if (!context::CompleteDigests(rollout.tokens, events).ok()) return {};
  return events;
}

absl::Status CheckEvents(const context::ContextPolicy& policy, const rl::Rollout& rollout) {
  if (const absl::Status sound = context::CheckLog(kShape, rollout.tokens, rollout.events);
      !sound.ok()) {
    return absl::DataLossError(sound.message());
  }
  const std::vector<Event> events = EventsOf(policy, rollout);
  if (rollout.events == events) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("%d events that are not the %d it was made with",
                                             rollout.events.size(), events.size()));
}

}  // namespace palimpsest::simulation
