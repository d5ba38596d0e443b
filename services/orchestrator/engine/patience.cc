#include "services/orchestrator/engine/patience.h"

#include <algorithm>

#include "common/telemetry/log.h"

namespace palimpsest::orchestrator {
namespace {
constexpr absl::Duration kTellEvery = absl::Seconds(30);
}

bool Patience::Pause(std::string_view what, const absl::Status& status, Wait& wait) const {
  if (wait.waited >= config_.patience) return false;
  if (wait.waited - wait.told >= kTellEvery) {
    Log(Severity::kWarning, "waiting for a peer",
        {{"call", what},
         {"waited_s", absl::ToDoubleSeconds(wait.waited)},
         {"status", status.ToString()}});
    wait.told = wait.waited;
  }
  wait.next =
      wait.next == absl::ZeroDuration() ? config_.poll : std::min(wait.next * 2, config_.max_poll);
  threads_.WaitFor(stop_, wait.next);
  wait.waited += wait.next;
  metrics_.peer_wait.With({std::string(what)}).Add(absl::ToDoubleSeconds(wait.next));
  return true;
}

}  // namespace palimpsest::orchestrator
