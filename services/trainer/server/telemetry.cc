#include "services/trainer/server/telemetry.h"

#include <string>
#include <vector>

namespace palimpsest::trainer {
namespace {

Gauge One(Metrics& m, const char* name, const char* help) {
  return m.AddGauge({name, help}).With({});
}

Counter Count(Metrics& m, const char* name, const char* help) {
  return m.AddCounter({name, help}).With({});
}

}  // namespace

Telemetry::Telemetry(Metrics& m)
    : ready_(One(m, "ready", "1 when batches are taken")),
      step_(One(m, "trainer_step", "optimiser steps in the weights")),
      durable_step_(One(m, "trainer_durable_step", "covered by a durable checkpoint")),
      policy_version_(One(m, "policy_version", "newest published; -1 for none")),
      loss_(One(m, "trainer_loss", "of the last step")),
      grad_norm_(One(m, "trainer_grad_norm", "of the last step, before clipping")),
      entropy_(One(m, "trainer_entropy", "mean over loss tokens of the last step, nats")),
      peak_bytes_(One(m, "trainer_peak_bytes", "resident memory at its highest in the last step")),
      learning_rate_(One(m, "trainer_learning_rate", "of the last step")),
      tokens_per_second_(
          One(m, "trainer_tokens_per_second", "rows computed per second of the last step")),
      ratio_mean_(One(m, "trainer_ratio_mean", "importance ratio of the last step, over tokens")),
      ratio_max_(One(m, "trainer_ratio_max", "importance ratio of the last step, the largest")),
      clip_share_(
          One(m, "trainer_clip_share", "of tokens that a bound held back in the last step")),
      truncated_share_(
          One(m, "trainer_truncated_share", "of tokens whose factor was cut in the last step")),
      masked_share_(One(m, "trainer_masked_share", "of tokens that a mask left out, last step")),
      effective_share_(One(m, "trainer_effective_sample_share",
                           "effective sample size by tokens of the last step")),
      reference_kl_(One(m, "trainer_reference_kl",
                        "estimate of the KL to the reference, last step; nats a token")),
      distilled_(One(m, "trainer_distillation_loss",
                     "part of the last step's loss that pulls one view to the other")),
      tokens_(Count(m, "trainer_tokens_total", "rows computed")),
      loss_tokens_(Count(m, "trainer_loss_tokens_total", "tokens learnt from")),
      skipped_(Count(m, "trainer_skipped_steps_total", "steps that changed no weight")),
      save_failures_(
          Count(m, "trainer_save_failures_total", "checkpoints that could not be written")),
      mismatch_kl_(m.AddGauge({"trainer_mismatch_kl",
                               "sampled against recomputed, last step, by events seen; nats",
                               {"events"}}),
                   GaugeByEvents::Fold::kMean),
      mismatch_max_(m.AddGauge({"trainer_mismatch_max_abs",
                                "largest difference of log-probability in the last step; nats",
                                {"events"}}),
                    GaugeByEvents::Fold::kMax),
      view_kl_(m.AddGauge({"trainer_view_kl",
                           "between dense and shadow view where last compared, mean over tokens; "
                           "nats",
                           {"direction"}})),
      view_kl_p99_(m.AddGauge(
          {"trainer_view_kl_p99", "the same, that of the 99th percentile; nats", {"direction"}})),
      acceptance_p5_(m.AddGauge({"trainer_view_acceptance_p5",
                                 "the 5th percentile, by where in the response the tokens stand",
                                 {"from"}})),
      rejected_(m.AddCounter({"trainer_rejected_total", "items refused", {"reason"}})),
      step_seconds_(
          m.AddHistogram({"trainer_step_seconds", "of one step", {"phase"}}, LatencyBuckets())),
      broadcast_seconds_(m.AddHistogram(
          {"broadcast_seconds", "of new weights on their way", {"stage"}}, LatencyBuckets())) {
  for (const RejectReason reason : kAllRejectReasons) rejected_.Begin({std::string(Name(reason))});
}

void Telemetry::SetReady(bool ready) { ready_.Set(ready ? 1 : 0); }

void Telemetry::TrainedRollouts(const RatioStats& ratio) {
  ratio_mean_.Set(ratio.mean);
  ratio_max_.Set(ratio.max);
  clip_share_.Set(ratio.clip_share);
  truncated_share_.Set(ratio.truncated_share);
  masked_share_.Set(ratio.masked_share);
  effective_share_.Set(ratio.effective_sample_size);
}

void Telemetry::Compared(const rl::ViewReport& views) {
  view_kl_.With({"dense_shadow"}).Set(views.dense_shadow);
  view_kl_.With({"shadow_dense"}).Set(views.shadow_dense);
  view_kl_p99_.With({"dense_shadow"}).Set(views.dense_shadow_p99);
  view_kl_p99_.With({"shadow_dense"}).Set(views.shadow_dense_p99);
  for (const rl::ViewBin& bin : views.bins) {
    acceptance_p5_.With({std::to_string(bin.begin)}).Set(bin.acceptance_p5);
  }
}

void Telemetry::Trained(const StepResult& r) {
  loss_.Set(r.loss);
  grad_norm_.Set(r.grad_norm);
  entropy_.Set(r.entropy);
  peak_bytes_.Set(static_cast<double>(r.peak_bytes));
  tokens_.Add(static_cast<double>(r.tokens));
  loss_tokens_.Add(static_cast<double>(r.loss_tokens));
  if (r.skipped) skipped_.Add();
  std::vector<ByEvents> kl, max_abs;
  for (const MismatchBucket& m : r.mismatch) {
    kl.push_back({m.events, m.tokens, m.kl});
    max_abs.push_back({m.events, m.tokens, m.max_abs});
  }
  mismatch_kl_.Set(kl);
  mismatch_max_.Set(max_abs);
  for (const Rejected& x : r.rejected) rejected_.With({std::string(Name(x.reason))}).Add();
  learning_rate_.Set(r.learning_rate);
  if (r.ratio) TrainedRollouts(*r.ratio);
  if (r.reference_kl) reference_kl_.Set(*r.reference_kl);
  distilled_.Set(r.distilled);
  if (r.views) Compared(*r.views);
  double total = 0;
  for (const auto& [phase, seconds] : r.phases) {
    step_seconds_.With({phase}).Observe(seconds);
    total += seconds;
  }
  if (total > 0) tokens_per_second_.Set(static_cast<double>(r.tokens) / total);
}

void Telemetry::Status(int64_t step, int64_t durable_step, int64_t policy_version) {
  step_.Set(static_cast<double>(step));
  durable_step_.Set(static_cast<double>(durable_step));
  policy_version_.Set(static_cast<double>(policy_version));
}

void Telemetry::Published(double seconds) { broadcast_seconds_.With({"publish"}).Observe(seconds); }

void Telemetry::SaveFailed() { save_failures_.Add(); }

}  // namespace palimpsest::trainer
