#include "services/orchestrator/core/progress.h"

#include <algorithm>

namespace palimpsest::orchestrator {
namespace {

bool BeginsOrEndsStage(const Progress& before, const Progress& now) {
  if (now.phase != before.phase || now.stage != before.stage) return true;
  return now.step != before.step && now.step == now.total_steps;
}

}  // namespace

bool ProgressSieve::Passes(const Progress& now, bool last, absl::Time time) {
  if (told_.has_value()) {
    held_ = now.sequence != told_->sequence;
    if (!held_) return false;
    if (!last && time < due_ && !BeginsOrEndsStage(*told_, now)) return false;
  }
  told_ = now;
  held_ = false;
  due_ = time + interval_;
  return true;
}

absl::Duration ProgressSieve::Wait(absl::Time time) const {
  return held_ ? std::max(absl::ZeroDuration(), due_ - time) : absl::InfiniteDuration();
}

std::string_view Name(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return "starting";
    case Phase::kSft:
      return "sft";
    case Phase::kRl:
      return "rl";
    case Phase::kEvaluation:
      return "evaluation";
    case Phase::kReport:
      return "report";
    case Phase::kDone:
      return "done";
    case Phase::kFailed:
      return "failed";
  }
  return "unknown";
}

}  // namespace palimpsest::orchestrator
