#pragma once

#include <string_view>
#include <type_traits>
#include <utility>

#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// The task raised (kInternal), or what it runs in was lost over this call (kAborted): the
// environment is there, but this call of it may never succeed.
inline bool TaskFailed(const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsAborted(status);
}
inline rl::Outcome OutcomeOf(const absl::Status& failed) {
  return absl::IsInternal(failed) ? rl::Outcome::kTaskFailed : rl::Outcome::kInfraFailed;
}

// Asks the environment for something once, and waits for one that is away. `what` names the call in
// the log and the metric.
template <class Fn>
std::invoke_result_t<Fn> AskTaskOnce(const Workplace& place, std::string_view what, Fn&& call) {
  return place.patience.PersistWhile(
      what, [](const absl::Status& status) { return MayPass(status) && !TaskFailed(status); },
      std::forward<Fn>(call));
}

// Where the task fails the same is asked again, rl.max_tries times in all: the last answer is
// returned.
template <class Fn>
std::invoke_result_t<Fn> AskTask(const Workplace& place, std::string_view what, Fn&& call) {
  std::invoke_result_t<Fn> answer = AskTaskOnce(place, what, call);
  for (int32_t i = 1; i < place.plan.rl.max_tries && TaskFailed(answer.status()); ++i) {
    answer = AskTaskOnce(place, what, call);
  }
  return answer;
}

}  // namespace palimpsest::orchestrator
