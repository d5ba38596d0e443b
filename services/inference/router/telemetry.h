#pragma once

#include <string>

#include "common/base/clock.h"
#include "common/base/stopwatch.h"
#include "common/telemetry/metrics.h"
#include "services/inference/core/routing.h"

namespace palimpsest::inference {

// How asking a replica ended.
enum class AskOutcome {
  kOk,
  kRefused,      // the request was at fault, or its session
  kFull,         // RESOURCE_EXHAUSTED
  kUnavailable,  // nobody there, or draining: before anything was sent on to the caller
  kLost,         // likewise, afterwards
  kCancelled,    // by the caller, or its deadline
};

// The series of a router. Any thread; `metrics` and `clock` outlive it.
class RouterTelemetry {
 public:
  RouterTelemetry(Metrics& metrics, Clock& clock);

  void Asked(const std::string& replica, AskOutcome outcome);
  void Repeated() { repeats_.Add(); }
  void Chosen(Choice choice);
  // How many replicas are of each standing; together they are those that are known.
  void SetReplicas(int ready, int doubtful, int away);
  // From now on its failures are told, as 0 until there is one.
  void Knows(const std::string& replica);

  // Of a request that has come: what the router adds to its time.
  Stopwatch Arrived() const { return Stopwatch(clock_); }
  void Added(double seconds) { added_.Observe(seconds); }

 private:
  Clock& clock_;
  Gauge ready_;
  MetricFamily<Gauge> replicas_;
  Counter repeats_;
  MetricFamily<Counter> requests_, choices_;
  Histogram added_;
};

}  // namespace palimpsest::inference
