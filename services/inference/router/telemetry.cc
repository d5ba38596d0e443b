#include "services/inference/router/telemetry.h"

namespace palimpsest::inference {
namespace {

Gauge One(Metrics& metrics, const char* name, const char* help) {
  return metrics.AddGauge({name, help}).With({});
}

const char* NameOf(AskOutcome outcome) {
  switch (outcome) {
    case AskOutcome::kOk:
      return "ok";
    case AskOutcome::kRefused:
      return "refused";
    case AskOutcome::kFull:
      return "full";
    case AskOutcome::kUnavailable:
      return "unavailable";
    case AskOutcome::kLost:
      return "lost";
    case AskOutcome::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace

RouterTelemetry::RouterTelemetry(Metrics& m)
    : ready_(One(m, "ready", "1 when weights are loaded and requests are admitted")),
      ready_replicas_(One(m, "router_ready_replicas", "replicas that admit requests")),
      known_replicas_(One(m, "router_known_replicas", "replicas that are configured or announced")),
      repeats_(
          m.AddCounter({"router_repeats_total", "requests sent to a further replica"}).With({})),
      requests_(m.AddCounter({"router_requests_total",
                              "requests by the replica that was asked and how that ended",
                              {"replica", "outcome"}})) {}

void RouterTelemetry::Asked(const std::string& replica, AskOutcome outcome) {
  requests_.With({replica, NameOf(outcome)}).Add();
}

void RouterTelemetry::SetReplicas(int ready, int open, int known) {
  ready_.Set(open > 0 ? 1 : 0);
  ready_replicas_.Set(ready);
  known_replicas_.Set(known);
}

}  // namespace palimpsest::inference
