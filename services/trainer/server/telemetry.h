#pragma once

#include "common/telemetry/by_events.h"
#include "common/telemetry/metrics.h"
#include "services/trainer/core/trainer.h"

namespace palimpsest::trainer {

// The trainer's metrics. Any thread.
class Telemetry {
 public:
  explicit Telemetry(Metrics& metrics);
  void SetReady(bool ready);
  void Trained(const StepResult& result);
  void Status(int64_t step, int64_t durable_step, int64_t policy_version);
  void Published(double seconds);
  void SaveFailed();

 private:
  void TrainedRollouts(const RatioStats& ratio);
  void Compared(const rl::ViewReport& views);

  Gauge ready_, step_, durable_step_, policy_version_, loss_, grad_norm_, entropy_, peak_bytes_,
      learning_rate_, tokens_per_second_, ratio_mean_, ratio_max_, clip_share_, truncated_share_,
      masked_share_, effective_share_, reference_kl_, distilled_;
  Counter tokens_, loss_tokens_, skipped_, save_failures_;
  GaugeByEvents mismatch_kl_, mismatch_max_;
  MetricFamily<Gauge> view_kl_, view_kl_p99_, acceptance_p5_;
  MetricFamily<Counter> rejected_;
  MetricFamily<Histogram> step_seconds_, broadcast_seconds_;
};

}  // namespace palimpsest::trainer
