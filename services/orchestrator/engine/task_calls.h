#pragma once

#include <string_view>
#include <type_traits>
#include <utility>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// Asks the environment for something, and waits for one that is away. Where its task raises
// (kInternal) the same is asked again, rl.max_tries times in all: the last answer is returned.
// `what` names the call in the log and the metric.
template <class Fn>
std::invoke_result_t<Fn> AskTask(const Workplace& place, std::string_view what, Fn&& call) {
  std::invoke_result_t<Fn> answer = place.patience.Persist(what, call);
  for (int32_t i = 1; i < place.plan.rl.max_tries && absl::IsInternal(answer.status()); ++i) {
    answer = place.patience.Persist(what, call);
  }
  return answer;
}

}  // namespace palimpsest::orchestrator
