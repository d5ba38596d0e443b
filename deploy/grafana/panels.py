"""What the dashboards show: the table that make_dashboards.py turns into JSON. Read and change this, never the JSON.

A dashboard is rows of panels; a panel is (title, unit, what it tells, [(legend, expression), ..]). In expressions RUN stands
for the run that is chosen in the dashboard and WINDOW for a span that holds a few scrapes.
Units are Grafana's: short, s, bytes, percentunit (1 = 100 %).
"""

LEARNING = [
    ("Reward", "short", "Mean reward of the last trained batch, and of the last held-out evaluation.",
     [("{{run}}", "palimpsest_reward{RUN}"), ("{{run}} held-out, {{sampling}}", "palimpsest_heldout_reward{RUN}")]),
    ("Held-out reward by task", "short", "At T = 1; prompts that nobody could judge count nowhere.",
     [("{{run}} {{task}}", 'palimpsest_heldout_task_reward{RUN,sampling="sampled"}'),
      ("{{run}} prompts unjudged", "palimpsest_heldout_unjudged{RUN}")]),
    ("Loss", "short", "Of the last step. Under GRPO its level tells little; jumps do.",
     [("{{run}}", "palimpsest_trainer_loss{RUN}")]),
    ("Entropy", "short", "Nats, mean over the tokens learnt from. Towards 0: nothing is explored any more.",
     [("{{run}}", "palimpsest_trainer_entropy{RUN}")]),
    ("Gradient norm", "short", "Before clipping.", [("{{run}}", "palimpsest_trainer_grad_norm{RUN}")]),
    ("Steps", "short", "Steps in the weights, and those that a durable checkpoint covers.",
     [("in the weights", "palimpsest_trainer_step{RUN}"), ("durable", "palimpsest_trainer_durable_step{RUN}")]),
    ("Rollouts per second", "short", "By what became of them. Only ok is learnt from.",
     [("{{outcome}}", "sum by (outcome) (rate(palimpsest_rollouts_total{RUN}[WINDOW]))")]),
]

CORRECT = [
    ("Mismatch KL by events", "short",
     "Sampled against replayed log-probability, k3 in nats a token, by the number of events that a row has behind it. "
     "All lines together or not at all: a line that leaves with its events is a broken log.",
     [("{{events}} events", 'palimpsest_mismatch_kl{RUN}')]),
    ("Largest mismatch by events", "short", "Nats, the worst token of the last step.",
     [("{{events}} events", "palimpsest_trainer_mismatch_max_abs{RUN}")]),
    ("Staleness", "short", "Versions behind: of the oldest rollout in the last batch, and of the slowest replica.",
     [("last batch", "palimpsest_staleness{RUN}"), ("slowest replica", "run:palimpsest_served_lag:versions{RUN}")]),
    ("Policy version", "short", "Published by the trainer, known to the orchestrator, live in each replica.",
     [("{{role}}-{{rank}}", "palimpsest_policy_version{RUN}")]),
    ("Refused by the trainer", "short", "Rollouts per second, by reason. log and digest must not happen.",
     [("{{reason}}", "sum by (reason) (rate(palimpsest_trainer_rejected_total{RUN}[WINDOW]))")]),
    ("Steps that changed nothing", "short", "Skipped: not finite, or nothing to learn from. Since the trainer's start.",
     [("{{run}}", "palimpsest_trainer_skipped_steps_total{RUN}")]),
]

FAST = [
    ("Idle share by side", "percentunit", "The part of wall time in which a side computes nothing.",
     [("inference-{{rank}}",
       "clamp_min(1 - sum by (rank) (rate(palimpsest_engine_step_seconds_sum{RUN}[WINDOW])), 0)"),
      ("trainer-{{rank}}",
       "clamp_min(1 - sum by (rank) (rate(palimpsest_trainer_step_seconds_sum{RUN}[WINDOW])), 0)")]),
    ("Tokens per second", "short", "Sampled by inference; rows computed by the trainer, prompts included.",
     [("sampled", 'sum(rate(palimpsest_tokens_total{RUN, kind="sampled"}[WINDOW]))'),
      ("prompt", 'sum(rate(palimpsest_tokens_total{RUN, kind="prompt"}[WINDOW]))'),
      ("trainer", "sum(rate(palimpsest_trainer_tokens_total{RUN}[WINDOW]))")]),
    ("Parts of a step", "s", "Mean wall time, as the orchestrator sees it.",
     [("{{phase}}", "sum by (phase) (rate(palimpsest_step_seconds_sum{RUN}[WINDOW]))"
                    " / sum by (phase) (rate(palimpsest_step_seconds_count{RUN}[WINDOW]))")]),
    ("Parts of a training step", "s", "Mean wall time inside of the trainer.",
     [("{{phase}}", "sum by (phase) (rate(palimpsest_trainer_step_seconds_sum{RUN}[WINDOW]))"
                    " / sum by (phase) (rate(palimpsest_trainer_step_seconds_count{RUN}[WINDOW]))")]),
    ("Stages of new weights", "s", "Mean: publish (trainer), then verify, load and flip (each replica).",
     [("{{stage}}", "sum by (stage) (rate(palimpsest_broadcast_seconds_sum{RUN}[WINDOW]))"
                    " / sum by (stage) (rate(palimpsest_broadcast_seconds_count{RUN}[WINDOW]))")]),
    ("Waiting for peers", "percentunit", "Share of time in which the orchestrator asks again, by call; workers add up.",
     [("{{call}}", "sum by (call) (rate(palimpsest_peer_wait_seconds_total{RUN}[WINDOW]))")]),
]

HEALTHY = [
    ("Answering", "short", "1: its metrics can be read.", [("{{role}}-{{rank}}", 'up{job="palimpsest", RUN}')]),
    ("Ready", "short", "1: it does its work.", [("{{role}}-{{rank}}", "palimpsest_ready{RUN}")]),
    ("Alerts", "short", "What rings now; docs/operations.md says what to do.",
     [("{{alertname}}", 'sum by (alertname) (ALERTS{alertname=~"Palimpsest.*", alertstate="firing", RUN})'
                        ' or on () label_replace(vector(0), "alertname", "none", "", "")')]),
    ("Groups", "short", "Prompts with their samples that are in no batch yet.",
     [("{{state}}", "palimpsest_open_groups{RUN}")]),
    ("Replicas behind the router", "short", "By standing; a run without a router has none. More: the dashboard of inference.",
     [("{{standing}}", "sum by (standing) (palimpsest_router_replicas{RUN})")]),
    ("Memory", "bytes", "Resident.", [("{{role}}-{{rank}}", "palimpsest_process_resident_memory_bytes{RUN}")]),
    ("Cores in use", "short", "CPU seconds per second.",
     [("{{role}}-{{rank}}", "rate(palimpsest_process_cpu_seconds_total{RUN}[WINDOW])")]),
    ("Uptime", "s", "A fall to 0 is a restart.",
     [("{{role}}-{{rank}}", "time() - palimpsest_process_start_time_seconds{RUN}")]),
    ("Failed calls per second", "short", "By daemon and status.",
     [("{{role}} {{code}}", 'sum by (role, code) (rate(palimpsest_rpc_server_requests_total{RUN, code!="OK"}[WINDOW]))')]),
    ("Checkpoints that failed", "short", "Since the trainer's start.",
     [("{{run}}", "palimpsest_trainer_save_failures_total{RUN}")]),
]


def quantiles(metric, by=""):
    """Median and 99th percentile of a histogram."""
    inside = ", ".join(["le"] + ([by] if by else []))
    return [((f"{{{{{by}}}}} " if by else "") + legend,
             f"histogram_quantile({q}, sum by ({inside}) (rate({metric}_bucket{{RUN}}[WINDOW])))")
            for q, legend in ((0.5, "median"), (0.99, "99 %"))]


LOAD = [
    ("Sequences", "short", "Decoding, waiting for their turn, and waiting to be rebuilt.",
     [("running {{rank}}", "palimpsest_sequences_in_flight{RUN}"),
      ("queued {{rank}}", "palimpsest_queue_depth{RUN}"),
      ("preempted {{rank}}", "palimpsest_sequences_preempted{RUN}")]),
    ("What compaction leaves", "percentunit", "KV slots that running sequences see, of the positions they have processed.",
     [("{{rank}}", "palimpsest_live_slots{RUN} / palimpsest_total_slots{RUN}")]),
    ("KV memory", "bytes", "Of slots and recorded queries: the pool, and what of it is free.",
     [("free {{rank}}", "palimpsest_kv_free_bytes{RUN}"), ("pool {{rank}}", "palimpsest_kv_total_bytes{RUN}")]),
    ("Tokens per second", "short", "", [("{{kind}} {{rank}}", "rate(palimpsest_tokens_total{RUN}[WINDOW])")]),
    ("Samples per second", "short", "By how they ended.",
     [("{{outcome}}", "sum by (outcome) (rate(palimpsest_samples_total{RUN}[WINDOW]))")]),
    ("Preemptions per second", "short", "Caches given back under pressure, to be rebuilt from the log.",
     [("{{rank}}", "rate(palimpsest_preemptions_total{RUN}[WINDOW])")]),
]
TIMES = [
    ("Time to the first token", "s", "From submission; waiting counts.", quantiles("palimpsest_time_to_first_token_seconds")),
    ("Gap between tokens", "s", "Of one sequence; events are in it.", quantiles("palimpsest_inter_token_gap_seconds")),
    ("Step of the batch", "s", "", quantiles("palimpsest_engine_step_seconds")),
    ("Events per second", "short", "Compactions by method.",
     [("{{method}}", "sum by (method) (rate(palimpsest_compactions_total{RUN}[WINDOW]))")]),
    ("Time of an event", "s", "", quantiles("palimpsest_compaction_seconds", by="method")),
    ("Calls", "s", "From request to end, 99th percentile.",
     [("{{method}}", "histogram_quantile(0.99, sum by (le, method)"
                     ' (rate(palimpsest_rpc_server_seconds_bucket{RUN, role="inference"}[WINDOW])))')]),
]
TROUBLE = [
    ("Weights not taken over", "short", "By status, since the replica's start.",
     [("{{code}} {{rank}}", "palimpsest_weights_failures_total{RUN}")]),
    ("Streams that nobody read", "short", "Ended; since the replica's start.",
     [("{{rank}}", "palimpsest_slow_readers_total{RUN}")]),
]

ROUTER_HEALTHY = [
    ("Replicas by standing", "short", "Ready, doubtful (silent just now, or paused: asked last), away (not asked).",
     [("{{standing}} {{rank}}", "palimpsest_router_replicas{RUN}")]),
    ("Asked per second", "short", "By how it ended. full: the fleet is too small; unavailable: asked again elsewhere; lost: a caller's stream ended.",
     [("{{outcome}}", "sum by (outcome) (rate(palimpsest_router_requests_total{RUN}[WINDOW]))")]),
    ("Repeats", "percentunit", "Askings of a further replica, per request.",
     [("{{rank}}", "sum by (rank) (rate(palimpsest_router_repeats_total{RUN}[WINDOW]))"
                   " / sum by (rank) (rate(palimpsest_router_choices_total{RUN}[WINDOW]))")]),
]
ROUTER_FAST = [
    ("Asked at home", "percentunit",
     "Share of requests that went where their prompt's pages are, or are known. Low: replicas come and go, or are full.",
     [("{{rank}}", 'sum by (rank) (rate(palimpsest_router_choices_total{RUN, choice!="elsewhere"}[WINDOW]))'
                   " / sum by (rank) (rate(palimpsest_router_choices_total{RUN}[WINDOW]))")]),
    ("Time that the router adds", "s", "Until the replica that answers was asked.", quantiles("palimpsest_router_added_seconds")),
    ("Requests by replica", "short", "Per second, answered.",
     [("{{replica}}", 'sum by (replica) (rate(palimpsest_router_requests_total{RUN, outcome="ok"}[WINDOW]))')]),
]

DASHBOARDS = {
    "run": ("Palimpsest: a run", [("Is it learning?", LEARNING), ("Is it correct?", CORRECT), ("Is it fast?", FAST),
                                  ("Is it healthy?", HEALTHY)]),
    "inference": ("Palimpsest: inference", [("Load", LOAD), ("Times", TIMES), ("Trouble", TROUBLE),
                                             ("The router: is it healthy?", ROUTER_HEALTHY),
                                             ("The router: is it fast?", ROUTER_FAST)]),
}
