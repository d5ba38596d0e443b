#include "common/rl/episode.h"

#include <algorithm>

namespace palimpsest::rl {

std::optional<int32_t> NextResponse(const EpisodeView& now, const EpisodeBounds& bounds) {
  const int32_t room = std::min(bounds.max_response, bounds.max_position - now.tokens);
  if (now.done || now.starved || now.responses >= bounds.max_turns || room < 1) return std::nullopt;
  return room;
}

bool IsLost(const absl::Status& step) {
  return absl::IsNotFound(step) || absl::IsFailedPrecondition(step) || absl::IsUnavailable(step) ||
         absl::IsDeadlineExceeded(step) || absl::IsCancelled(step) || absl::IsInternal(step);
}

bool MayStepLater(const absl::Status& step) {
  return absl::IsResourceExhausted(step) || absl::IsAborted(step);
}

}  // namespace palimpsest::rl
