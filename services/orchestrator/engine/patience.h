#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "services/orchestrator/core/config.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/engine/run_metrics.h"
#include "services/orchestrator/engine/threads.h"

namespace palimpsest::orchestrator {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <class T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Waits for peers that are down for a while. Any thread; `stop` ends all waits with kCancelled.
class Patience {
 public:
  Patience(const PeersConfig& config, const absl::Notification& stop, const RunMetrics& metrics,
           Threads& threads)
      : config_(config), stop_(stop), metrics_(metrics), threads_(threads) {}

  // Calls until the answer is one that may not pass, or `patience` is used up: then the last answer
  // is returned. `what` names the call in the log and the metric.
  template <class Fn>
  std::invoke_result_t<Fn> Persist(std::string_view what, Fn&& call) const {
    return PersistWhile(what, MayPass, std::forward<Fn>(call));
  }
  template <class Fn>
  std::invoke_result_t<Fn> PersistWhile(std::string_view what,
                                        const std::function<bool(const absl::Status&)>& again,
                                        Fn&& call) const {
    for (Wait wait;;) {
      if (stop_.HasBeenNotified()) return Stopped();
      std::invoke_result_t<Fn> result = call();
      if (!again(StatusOf(result)) || !Pause(what, StatusOf(result), wait)) return result;
    }
  }

  static absl::Status Stopped() { return absl::CancelledError("the run was asked to stop"); }
  bool stopping() const { return stop_.HasBeenNotified(); }

 private:
  struct Wait {
    absl::Duration waited = absl::ZeroDuration();
    absl::Duration next = absl::ZeroDuration();
    absl::Duration told = -absl::InfiniteDuration();
  };
  // Waits a little longer than the last time. False: patience is at its end.
  bool Pause(std::string_view what, const absl::Status& status, Wait& wait) const;

  PeersConfig config_;
  const absl::Notification& stop_;
  const RunMetrics& metrics_;
  Threads& threads_;
};

}  // namespace palimpsest::orchestrator
