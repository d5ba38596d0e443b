#include "services/orchestrator/core/progress.h"

namespace palimpsest::orchestrator {

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
