#include "services/inference/server/telemetry.h"

namespace palimpsest::inference {
namespace {

Gauge One(Metrics& metrics, const char* name, const char* help) {
  return metrics.AddGauge({name, help}).With({});
}

Histogram Seconds(Metrics& metrics, const char* name, const char* help) {
  return metrics.AddHistogram({name, help}, LatencyBuckets()).With({});
}

const char* OutcomeName(rl::Outcome outcome) {
  switch (outcome) {
    case rl::Outcome::kOk:
      return "ok";
    case rl::Outcome::kTruncated:
      return "truncated";
    case rl::Outcome::kTaskFailed:
      return "task_failed";
    case rl::Outcome::kInfraFailed:
      return "infra_failed";
    case rl::Outcome::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace

Telemetry::Telemetry(Metrics& m)
    : ready_(One(m, "ready", "1 when weights are loaded and requests are admitted")),
      policy_version_(One(m, "policy_version", "of the live weights")),
      in_flight_(One(m, "sequences_in_flight", "decoding now")),
      queue_depth_(One(m, "queue_depth", "samples that wait")),
      live_slots_(One(m, "live_slots", "KV slots that running sequences see")),
      total_slots_(One(m, "total_slots", "KV slots that they would see without compaction")),
      kv_free_(One(m, "kv_free_bytes", "of kv_total_bytes, in no use")),
      kv_total_(One(m, "kv_total_bytes",
                    "the pool of KV slots and recorded queries, as configured; 0 before the first "
                    "weights")),
      prompt_tokens_(m.AddCounter({"tokens_total", "by kind", {"kind"}}).With({"prompt"})),
      sampled_tokens_(m.AddCounter({"tokens_total", "by kind", {"kind"}}).With({"sampled"})),
      prefix_tokens_(m.AddCounter({"prefix_hit_tokens_total",
                                   "prompt tokens whose KV was found, not processed"})
                         .With({})),
      slow_readers_(
          m.AddCounter({"slow_readers_total", "streams ended since nobody read them"}).With({})),
      preemptions_(m.AddCounter({"preemptions_total",
                                 "caches given back under pressure, to be rebuilt from the log"})
                       .With({})),
      early_compactions_(m.AddCounter({"early_compactions_total",
                                       "events under pressure, before the budget was reached"})
                             .With({})),
      preempted_(One(m, "sequences_preempted", "waiting to go on")),
      sessions_(One(m, "sessions", "open")),
      kv_behind_(
          One(m, "kv_flips_behind", "flips of weights since the oldest KV of what runs was begun")),
      canary_error_(One(m, "canary_max_abs_nats",
                        "what the live weights say of their canary prompts against their writer")),
      first_token_(Seconds(m, "time_to_first_token_seconds", "from submission")),
      token_gap_(Seconds(m, "inter_token_gap_seconds", "between two tokens of a sequence")),
      step_(Seconds(m, "engine_step_seconds", "of one step of the batch")),
      samples_(m.AddCounter({"samples_total", "ended samples", {"outcome"}})),
      compactions_(m.AddCounter({"compactions_total", "events", {"method"}})),
      weights_failures_(
          m.AddCounter(
               {"weights_failures_total", "versions that could not be taken over", {"code"}})
              .Begin({"DATA_LOSS", "FAILED_PRECONDITION", "INTERNAL", "INVALID_ARGUMENT",
                      "NOT_FOUND", "UNAVAILABLE"})),
      compaction_seconds_(
          m.AddHistogram({"compaction_seconds", "of one event", {"method"}}, LatencyBuckets())),
      broadcast_seconds_(m.AddHistogram(
          {"broadcast_seconds", "of taking over new weights", {"stage"}}, LatencyBuckets())) {
  for (const rl::Outcome outcome :
       {rl::Outcome::kOk, rl::Outcome::kTruncated, rl::Outcome::kTaskFailed,
        rl::Outcome::kInfraFailed, rl::Outcome::kCancelled}) {
    samples_.Begin({OutcomeName(outcome)});
  }
  for (const context::Method method : {context::Method::kAttentionMatching, context::Method::kEvict,
                                       context::Method::kMarkovian}) {
    compactions_.Begin({std::string(context::Name(method))});
  }
}

EngineObserver Telemetry::Observer() {
  return {
      .first_token = [this](double seconds) { first_token_.Observe(seconds); },
      .token_gap = [this](double seconds) { token_gap_.Observe(seconds); },
      .tokens =
          [this](int prompt, int sampled) {
            prompt_tokens_.Add(prompt);
            sampled_tokens_.Add(sampled);
          },
      .compaction =
          [this](context::Method method, double seconds) {
            const std::vector<std::string> labels{std::string(context::Name(method))};
            compactions_.With(labels).Add();
            compaction_seconds_.With(labels).Observe(seconds);
          },
      .compacted_early = [this] { early_compactions_.Add(); },
      .preempted = [this] { preemptions_.Add(); },
      .prefix_hit = [this](int tokens) { prefix_tokens_.Add(tokens); },
      .step = [this](double seconds, int) { step_.Observe(seconds); },
  };
}

void Telemetry::ReportLoad(const Load& load, int64_t kv_pool_bytes) {
  in_flight_.Set(load.running);
  queue_depth_.Set(load.queued);
  preempted_.Set(load.preempted);
  sessions_.Set(load.sessions);
  kv_behind_.Set(static_cast<double>(load.kv_behind));
  live_slots_.Set(static_cast<double>(load.live_slots));
  total_slots_.Set(static_cast<double>(load.total_slots));
  kv_free_.Set(static_cast<double>(load.kv_bytes_free));
  kv_total_.Set(static_cast<double>(kv_pool_bytes));
}

void Telemetry::SetVersion(PolicyVersion version) {
  policy_version_.Set(static_cast<double>(version.value()));
}

void Telemetry::SampleEnded(rl::Outcome outcome) { samples_.With({OutcomeName(outcome)}).Add(); }

void Telemetry::BroadcastSeconds(const std::string& stage, double seconds) {
  broadcast_seconds_.With({stage}).Observe(seconds);
}

void Telemetry::WeightsFailed(absl::StatusCode code) {
  weights_failures_.With({absl::StatusCodeToString(code)}).Add();
}

}  // namespace palimpsest::inference
