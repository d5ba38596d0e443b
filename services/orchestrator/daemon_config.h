#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/config/run_sections.h"
#include "common/rpc/listen.h"
#include "services/orchestrator/core/config.h"

namespace palimpsest::orchestrator {

// A context policy as YAML says it. A field that its kind does not read must be left out.
struct ContextSection {
  std::string kind = "kv_budget";  // none, kv_budget, segments, turns or manual
  std::optional<int32_t> budget, window, every, n_protect_turns, max_turns;
  double keep_ratio = 0.25;
  double early = 0;
  std::string method = "attention_matching";
  int32_t reference_tokens = 128;
  bool after_window = false;
  std::optional<int32_t> protect;
  bool stack = false;
  double mu = 1e-2, lambda = 1e-2, log_lower = -7, log_upper = 7;
  std::string chooser;  // empty: the method's default
  std::string reference_kind = "queries";
  uint64_t seed = 0;
  int32_t holdout_every = 0;
  bool operator==(const ContextSection&) const = default;
};
void Bind(Binder& b, ContextSection& c);
// `field` names the place in a refusal.
absl::StatusOr<context::ContextPolicy> ToPolicy(const ContextSection& c, const std::string& field);

// `orchestrator:` of the YAML.
struct OrchestratorSection {
  ListenSection serve;                             // its keys stand beside the others
  absl::Duration drain_grace = absl::Seconds(20);  // for running rollouts at SIGTERM
  std::string command;      // what was typed to start the run, for its report; empty: our own
  int64_t trace_every = 0;  // steps between two that get a trace file; 0 = none, nothing is traced
  std::map<std::string, ContextSection> contexts;
  RunPlan plan;  // without its contexts
  bool operator==(const OrchestratorSection&) const = default;
};
void Bind(Binder& b, OrchestratorSection& c);

// What the daemon reads of the YAML: `run:`, `tls:` and `orchestrator:`.
struct OrchestratorDaemonConfig {
  RunSection run;
  TlsSection tls;
  OrchestratorSection orchestrator;
  bool operator==(const OrchestratorDaemonConfig&) const = default;
};
void Bind(Binder& b, OrchestratorDaemonConfig& c);
absl::Status Validate(const OrchestratorDaemonConfig& c);

// The plan with its contexts.
absl::StatusOr<RunPlan> PlanOf(const OrchestratorSection& c);

}  // namespace palimpsest::orchestrator
