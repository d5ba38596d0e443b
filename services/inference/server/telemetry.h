#pragma once

#include <map>
#include <string>

#include "common/telemetry/metrics.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// The series of one replica. Any thread; `metrics` outlives it.
class Telemetry {
 public:
  explicit Telemetry(Metrics& metrics);

  // For the engine. Must not outlive this.
  EngineObserver Observer();

  void ReportLoad(const Load& load, int64_t kv_pool_bytes);
  void SetReady(bool ready) { ready_.Set(ready ? 1 : 0); }
  void SetVersion(PolicyVersion version);
  void CanaryError(double nats) { canary_error_.Set(nats); }
  void SampleEnded(rl::Outcome outcome);
  void ReaderTooSlow() { slow_readers_.Add(); }
  void BroadcastSeconds(const std::string& stage, double seconds);  // verify, load or flip
  void WeightsFailed(absl::StatusCode code);

 private:
  Gauge ready_, policy_version_, in_flight_, queue_depth_, live_slots_, total_slots_, kv_free_,
      kv_total_;
  Counter prompt_tokens_, sampled_tokens_, prefix_tokens_, slow_readers_, preemptions_,
      early_compactions_;
  Gauge preempted_, sessions_, kv_behind_, canary_error_;
  Histogram first_token_, token_gap_, step_;
  MetricFamily<Counter> samples_, compactions_, weights_failures_;
  MetricFamily<Histogram> compaction_seconds_, broadcast_seconds_;
};

}  // namespace palimpsest::inference
