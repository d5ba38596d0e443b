#include "services/inference/router/telemetry.h"

namespace palimpsest::inference {
namespace {

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

const char* NameOf(Choice choice) {
  switch (choice) {
    case Choice::kHome:
      return "home";
    case Choice::kKnown:
      return "known";
    case Choice::kElsewhere:
      return "elsewhere";
  }
  return "unknown";
}

}  // namespace

RouterTelemetry::RouterTelemetry(Metrics& m, Clock& clock)
    : clock_(clock),
      ready_(m.AddGauge({"ready", "1 while a replica can be asked"}).With({})),
      replicas_(m.AddGauge({"router_replicas",
                            "replicas that are configured or announced: ready, doubtful (silent "
                            "just now, or paused) and away (not asked)",
                            {"standing"}})),
      repeats_(
          m.AddCounter({"router_repeats_total", "requests sent to a further replica"}).With({})),
      requests_(m.AddCounter({"router_requests_total",
                              "requests by the replica that was asked and how that ended",
                              {"replica", "outcome"}})),
      choices_(m.AddCounter({"router_choices_total",
                             "requests by why their first replica was asked: home of their "
                             "content, known to it, elsewhere since home could not take it",
                             {"choice"}})),
      added_(m.AddHistogram({"router_added_seconds",
                             "from a request's arrival until the replica that answers it was "
                             "asked: choosing, and those asked before in vain"},
                            // Choosing takes microseconds, a replica asked in vain seconds.
                            {0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001,
                             0.0025,  0.005,    0.01,    0.025,  0.05,    0.1,    0.25,
                             0.5,     1,        2.5,     5,      10,      30,     60})
                 .With({})) {
  SetReplicas(0, 0, 0);
  for (const Choice choice : {Choice::kHome, Choice::kKnown, Choice::kElsewhere}) {
    choices_.Begin({NameOf(choice)});
  }
}

void RouterTelemetry::Asked(const std::string& replica, AskOutcome outcome) {
  requests_.With({replica, NameOf(outcome)}).Add();
}

void RouterTelemetry::Chosen(Choice choice) { choices_.With({NameOf(choice)}).Add(); }

void RouterTelemetry::Knows(const std::string& replica) {
  for (const AskOutcome outcome :
       {AskOutcome::kOk, AskOutcome::kFull, AskOutcome::kUnavailable, AskOutcome::kLost}) {
    requests_.With({replica, NameOf(outcome)});
  }
}

void RouterTelemetry::SetReplicas(int ready, int doubtful, int away) {
  ready_.Set(ready + doubtful > 0 ? 1 : 0);
  replicas_.With({"ready"}).Set(ready);
  replicas_.With({"doubtful"}).Set(doubtful);
  replicas_.With({"away"}).Set(away);
}

}  // namespace palimpsest::inference
