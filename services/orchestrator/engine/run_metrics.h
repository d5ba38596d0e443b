#pragma once

#include "common/telemetry/by_events.h"
#include "common/telemetry/metrics.h"

namespace palimpsest::orchestrator {

// What the run tells Prometheus. Any thread.
struct RunMetrics {
  explicit RunMetrics(Metrics& m)
      : step_seconds(m.AddHistogram(
            {"step_seconds", "Wall time of the parts of a step.", {"phase"}}, LatencyBuckets())),
        rollouts(m.AddCounter({"rollouts_total", "Rollouts by what became of them.", {"outcome"}})
                     .Begin({"ok", "truncated", "task_failed", "infra_failed", "cancelled", "stale",
                             "abandoned", "redrawn"})),
        trained_tokens(
            m.AddCounter({"trained_sampled_tokens_total", "Sampled tokens of trained rollouts."})
                .With({})),
        // The calls that are made through Patience.
        peer_wait(
            m.AddCounter({"peer_wait_seconds_total", "Time spent waiting for peers.", {"call"}})
                .Begin({"env.demonstrate", "env.list_tasks", "env.reset", "env.score", "env.step",
                        "inference.create_session", "inference.describe", "inference.generate",
                        "inference.step_session", "inference.update_weights", "trainer.publish",
                        "trainer.save", "trainer.status"})),
        groups(m.AddGauge({"open_groups", "Groups that are in no batch yet.", {"state"}})),
        mismatch_kl(m.AddGauge({"mismatch_kl",
                                "Sampled against replayed log-probability of the last step, k3 per "
                                "token in nats, by number of events.",
                                {"events"}}),
                    GaugeByEvents::Fold::kMean),
        left_out(m.AddCounter({"groups_left_out_total",
                               "Whole groups that are not trained on, by why.",
                               {"why"}})
                     .Begin({"all_solved", "none_solved"})),
        task_share(m.AddGauge(
            {"task_share", "Share of the next prompts, where it goes by pass rate.", {"task"}})),
        repetition(m.AddGauge({"repetition",
                               "Share of 8-grams that stand in their rollout more than once, mean "
                               "of the last batch."})
                       .With({})),
        surprisal(m.AddGauge({"surprisal",
                              "Nats per sampled token when it was drawn, mean of the last batch; "
                              "it rises when text becomes gibberish."})
                      .With({})),
        heldout_reward(m.AddGauge({"heldout_reward",
                                   "Mean reward of the last held-out evaluation, of prompts that "
                                   "could be judged; sampled (T = 1) or greedy.",
                                   {"sampling"}})),
        heldout_task_reward(
            m.AddGauge({"heldout_task_reward", "The same, of each task.", {"sampling", "task"}})),
        heldout_unjudged(m.AddGauge({"heldout_unjudged",
                                     "Prompts of the last held-out evaluation that no try could "
                                     "measure.",
                                     {"sampling"}})),
        reward(m.AddGauge({"reward", "Mean reward of the last trained batch."}).With({})),
        staleness(m.AddGauge({"staleness", "Most versions behind in the last batch."}).With({})),
        step(m.AddGauge({"step", "Steps that the trainer has made."}).With({})),
        policy_version(m.AddGauge({"policy_version", "Newest published weights."}).With({})),
        ready(m.AddGauge({"ready", "1 while the run goes on."}).With({})) {}

  MetricFamily<Histogram> step_seconds;
  MetricFamily<Counter> rollouts;
  mutable Counter trained_tokens;
  MetricFamily<Counter> peer_wait;
  MetricFamily<Gauge> groups;
  GaugeByEvents mismatch_kl;
  MetricFamily<Counter> left_out;
  MetricFamily<Gauge> task_share;
  mutable Gauge repetition, surprisal;
  MetricFamily<Gauge> heldout_reward, heldout_task_reward, heldout_unjudged;
  mutable Gauge reward, staleness, step, policy_version, ready;
};

}  // namespace palimpsest::orchestrator
