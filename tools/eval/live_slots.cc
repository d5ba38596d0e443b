#include "tools/eval/live_slots.h"

#include <algorithm>

#include "common/context/state.h"

namespace palimpsest::tools::eval {

absl::StatusOr<LiveSlots> SlotsWhileDrawn(const rl::Rollout& rollout) {
  const context::Shape shape =
      rollout.events.empty() ? context::Shape{1, 1} : rollout.events.front().kept.shape();
  context::ContextState state(shape);
  const auto total = static_cast<int32_t>(rollout.tokens.size());
  auto event = rollout.events.begin();
  LiveSlots slots;
  double sum = 0;
  for (int32_t p = 0; p < total; ++p) {
    if (p >= rollout.prompt_tokens) {
      sum += state.live_count();
      slots.peak = std::max(slots.peak, state.live_count());
    }
    if (event != rollout.events.end() && event->at == p) {
      if (const absl::Status applied = state.Apply(*event++); !applied.ok()) {
        return absl::DataLossError(applied.ToString());
      }
    }
    state.Append();
  }
  if (total > rollout.prompt_tokens) sum /= total - rollout.prompt_tokens;
  slots.mean = sum;
  return slots;
}

}  // namespace palimpsest::tools::eval
