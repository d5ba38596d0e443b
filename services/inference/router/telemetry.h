#pragma once

#include <string>

#include "common/telemetry/metrics.h"

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

// The series of a router. Any thread; `metrics` outlives it.
class RouterTelemetry {
 public:
  explicit RouterTelemetry(Metrics& metrics);

  void Asked(const std::string& replica, AskOutcome outcome);
  void Repeated() { repeats_.Add(); }
  // Counts of replicas: those that are ready, that can be asked at all, that are known.
  void SetReplicas(int ready, int open, int known);

 private:
  Gauge ready_, ready_replicas_, known_replicas_;
  Counter repeats_;
  MetricFamily<Counter> requests_;
};

}  // namespace palimpsest::inference
