#include "tools/eval/costs.h"

#include <algorithm>

#include "tools/eval/live_slots.h"

namespace palimpsest::tools::eval {

absl::Status AddCost(const rl::Rollout& rollout, Answer& answer) {
  ASSIGN_OR_RETURN(const LiveSlots slots, SlotsWhileDrawn(rollout));
  const auto total = static_cast<int32_t>(rollout.tokens.size());
  const int32_t tokens = total - rollout.prompt_tokens;
  const int32_t both = answer.tokens + tokens;
  if (both > 0)
    answer.mean_slots = (answer.mean_slots * answer.tokens + slots.mean * tokens) / both;
  answer.peak_slots = std::max(answer.peak_slots, slots.peak);
  answer.prompt_tokens += rollout.prompt_tokens;
  answer.tokens = both;
  answer.events += static_cast<int32_t>(rollout.events.size());
  answer.seconds += rollout.seconds;
  return absl::OkStatus();
}

}  // namespace palimpsest::tools::eval
