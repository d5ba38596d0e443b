#include "services/orchestrator/daemon_config.h"

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rl/advantage_kinds.h"

// Binds stand in the namespace of their struct.
namespace palimpsest::rl {

void Bind(Binder& b, OverlongOptions& c) {
  b.Field("limit", c.limit, "tokens of a response at which it is largest; 0: off");
  b.Field("stretch", c.stretch, "tokens before the limit over which it grows");
  b.Field("penalty", c.penalty, "the largest, in units of reward");
}

}  // namespace palimpsest::rl

namespace palimpsest::orchestrator {

void Bind(Binder& b, ContextSection& c) {
  b.Field("kind", c.kind, "none, kv_budget, segments, turns or manual");
  b.Field("budget", c.budget, "kv_budget: live slots at which an event comes");
  b.Field("window", c.window, "kv_budget, segments: slots that an event replaces");
  b.Field("every", c.every, "segments: tokens between two events");
  b.Field("n_protect_turns", c.n_protect_turns, "turns: last turns that stay as they are");
  b.Field("max_turns", c.max_turns, "turns: uncompacted turns at which an event comes");
  b.Field("keep_ratio", c.keep_ratio, "share of a window's slots that stay, [0, 1)");
  b.Field(
      "early", c.early,
      "kv_budget: share of the budget by which a server without free pages may compact earlier");
  b.Field("method", c.method, "attention_matching, evict or markovian");
  b.Field("reference_tokens", c.reference_tokens, "last positions whose queries the fit hears");
  b.Field("after_window", c.after_window, "only positions after the window are listened to");
  b.Field("protect", c.protect, "first tokens that no window touches; null: the prompt");
  b.Field("stack", c.stack, "never compact a compact block again");
  b.Field("mu", c.mu, "pull of the weights to 1");
  b.Field("lambda", c.lambda, "pull of the values to the kept ones");
  b.Field("log_lower", c.log_lower, "bound of a weight's logarithm, below 0");
  b.Field("log_upper", c.log_upper, "bound of a weight's logarithm, above 0");
  b.Field("chooser", c.chooser, "which slots stay; empty: the method's default");
  b.Field("reference_kind", c.reference_kind, "queries, keys or random");
  b.Field("seed", c.seed, "of random choice and random queries");
  b.Field("holdout_every", c.holdout_every, "0, or every k-th query is only measured");
}

void Bind(Binder& b, LearningRate& c) {
  b.Field("begin", c.begin, "at the first step");
  b.Field("end", c.end, "at the last step");
  b.Enum("shape", c.shape, {{"linear", RateShape::kLinear}, {"cosine", RateShape::kCosine}},
         "between the two");
}

void Bind(Binder& b, GateConfig& c) {
  b.Field("context", c.context, "name of the policy it is measured under");
  b.Field("greedy_reward", c.greedy_reward, "mean that ends the stage");
  b.Field("every", c.every, "steps between two measurements");
  b.Field("prompts", c.prompts, "of the sft split");
}

void Bind(Binder& b, SftConfig& c) {
  b.Field("name", c.name, "of the stage");
  b.Field("max_steps", c.max_steps, "at most");
  b.Field("batch", c.batch, "demonstrations of a step");
  b.Section("learning_rate", c.learning_rate, "over max_steps");
  b.Field("warmup", c.warmup, "first steps, whose rate rises linearly");
  b.Field("answer_noise", c.answer_noise, "chance that a digit of an answer is a uniform one");
  b.Field("contexts", c.contexts, "names of policies; batches take turns");
  b.Field("stop_loss", c.stop_loss, "a mean loss below it ends the stage; 0 = off");
  b.Field("loss_window", c.loss_window, "steps of that mean");
  b.Field("gate", c.gate, "greedy decoding that is good enough ends the stage; null = off");
}

void Bind(Binder& b, TaskWeights& c) {
  b.Field("by_pass_rate", c.by_pass_rate, "tasks get prompts by 1 / pass rate, else in turn");
  b.Field("window", c.window, "latest groups that pass rates are measured over");
  b.Field("hard", c.hard, "pass rate at or below which a task is hard");
  b.Field("easy", c.easy, "and at or above which it is easy");
  b.Field("pool_share", c.pool_share, "of the prompts, for all hard and easy tasks together");
}

void Bind(Binder& b, GroupFilter& c) {
  b.Field("all_solved", c.all_solved, "leave out groups whose rollouts are all solved");
  b.Field("none_solved", c.none_solved, "leave out groups without a solved rollout");
  b.Field("max_in_a_row", c.max_in_a_row, "then the next one is trained on whatever it is");
}

void Bind(Binder& b, RlConfig& c) {
  b.Field("steps", c.steps, "optimiser steps");
  b.Field("prompts_per_batch", c.prompts_per_batch, "groups of a step");
  b.Field("samples", c.samples, "rollouts of a group");
  b.Section("learning_rate", c.learning_rate, "over the steps");
  b.Field("warmup", c.warmup, "first steps, whose rate rises linearly");
  b.Field("temperature", c.temperature, "of the rollouts");
  b.Field("max_tokens", c.max_tokens, "sampled tokens, where the environment names no bound");
  b.Field("context", c.context, "name of the policy of the rollouts and of the evaluation");
  b.Field("max_staleness", c.max_staleness, "versions between sampling and training");
  b.Enum("advantage", c.advantage.kind, {rl::kAdvantageKinds.begin(), rl::kAdvantageKinds.end()},
         "what a reward of a group is measured against");
  b.Field("advantage_eps", c.advantage.epsilon, "added to the deviation of group_std");
  b.Section("overlong", c.overlong, "punishment of long responses");
  b.Field("max_redraws", c.max_redraws,
          "groups of equal rewards that a batch may replace by the next prompts");
  b.Field("eval_every", c.eval_every, "steps between two evaluations; 0 = first and last only");
  b.Field("max_in_flight", c.max_in_flight, "groups generated at once");
  b.Field("solved", c.solved, "reward from which a rollout counts as solved");
  b.Section("task_weights", c.task_weights, "which tasks the prompts are of");
  b.Section("filter", c.filter, "groups that are not trained on");
  b.Field("max_tries", c.max_tries, "requests for a sample before its group is given up");
}

void Bind(Binder& b, HeldoutConfig& c) {
  b.Field("prompts", c.prompts, "of the held-out split, the same in every evaluation");
  b.Field("also", c.also, "policies that the trained model is measured under, too");
}

void Bind(Binder& b, PeersConfig& c) {
  b.Field("inference", c.inference, "replicas");
  b.Field("env", c.env, "replicas");
  b.Field("patience", c.patience, "without a peer the run fails after this");
  b.Field("poll", c.poll, "first wait for a peer");
  b.Field("max_poll", c.max_poll, "longest wait between two tries");
  b.Field("call_deadline", c.call_deadline, "of calls that should not take long");
  b.Field("env_deadline", c.env_deadline,
          "of calls to environments: above start_timeout + call_timeout of their workers");
  b.Field("train_deadline", c.train_deadline, "of one batch");
  b.Field("generate_deadline", c.generate_deadline, "of one group");
}

void Bind(Binder& b, OrchestratorSection& c) {
  BindListen(b, c.serve);
  b.Field("drain_grace", c.drain_grace, "for running rollouts at a stop");
  b.Field("command", c.command, "what was typed to start the run, for its report; empty: our own");
  b.Field("trace_every", c.trace_every,
          "each so many steps one gets a file in <run>/trace; 0 = no calls are traced");
  b.Field("tasks", c.plan.tasks, "names of the environment's tasks; prompts take turns");
  b.Field("stop_strings", c.plan.stop_strings,
          "end a response, besides those that its task names; none: the model's stop id does");
  b.Field("contexts", c.contexts, "policies by name; 'none' is always there");
  b.Field("sft", c.plan.sft, "supervised stages, in order");
  b.Section("rl", c.plan.rl);
  b.Section("heldout", c.plan.heldout);
  b.Section("peers", c.plan.peers);
}

void Bind(Binder& b, OrchestratorDaemonConfig& c) {
  b.Section("run", c.run);
  b.Section("tls", c.tls, "certificates of the run");
  b.Section("orchestrator", c.orchestrator);
}

namespace {

// Sets the trigger; a number that is missing, or one that the kind does not read, is refused.
class TriggerReader {
 public:
  TriggerReader(const ContextSection& c, const std::string& field) : c_(c), field_(field) {}

  absl::Status Read(context::ContextPolicy& policy) {
    if (c_.kind == "none") {
      policy.trigger = context::NoTrigger{};
    } else if (c_.kind == "kv_budget") {
      policy.trigger = context::KvBudget{Need("budget"), Need("window"), c_.keep_ratio, c_.early};
    } else if (c_.kind == "segments") {
      policy.trigger = context::Segments{Need("every"), Need("window"), c_.keep_ratio};
    } else if (c_.kind == "turns") {
      const int32_t protect = Need("n_protect_turns");
      used_["max_turns"] = true;
      policy.trigger = context::Turns{protect, c_.max_turns, c_.keep_ratio};
    } else if (c_.kind == "manual") {
      policy.trigger = context::Manual{c_.keep_ratio};
    } else {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.kind='%s' is unknown", field_, c_.kind));
    }
    if (c_.early != 0 && c_.kind != "kv_budget") {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s.early=%g is not read by kind %s", field_, c_.early, c_.kind));
    }
    for (const auto& [name, value] : numbers_) {
      if (value->has_value() && !used_[name]) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s.%s=%d is not read by kind %s", field_, name, **value, c_.kind));
      }
    }
    return missing_;
  }

 private:
  int32_t Need(const std::string& name) {
    used_[name] = true;
    const std::optional<int32_t>& value = *numbers_.at(name);
    if (!value.has_value()) {
      missing_.Update(absl::InvalidArgumentError(
          absl::StrFormat("%s.%s is needed by kind %s", field_, name, c_.kind)));
    }
    return value.value_or(0);
  }

  const ContextSection& c_;
  const std::string& field_;
  const std::map<std::string, const std::optional<int32_t>*> numbers_ = {
      {"budget", &c_.budget},
      {"window", &c_.window},
      {"every", &c_.every},
      {"n_protect_turns", &c_.n_protect_turns},
      {"max_turns", &c_.max_turns}};
  std::map<std::string, bool> used_;
  absl::Status missing_;
};

// The value of a name, or its refusal under the key where it stands.
template <class T>
absl::StatusOr<T> Named(absl::StatusOr<T> value, const std::string& field, const char* key) {
  if (value.ok()) return value;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s.%s: %s", field, key, std::string(value.status().message())));
}

}  // namespace

absl::StatusOr<context::ContextPolicy> ToPolicy(const ContextSection& c, const std::string& field) {
  context::ContextPolicy policy;
  RETURN_IF_ERROR(TriggerReader(c, field).Read(policy));
  ASSIGN_OR_RETURN(policy.method, Named(context::MethodFromName(c.method), field, "method"));
  policy.parameters = {.mu = c.mu,
                       .lambda = c.lambda,
                       .log_lower = c.log_lower,
                       .log_upper = c.log_upper,
                       .chooser = context::DefaultChooser(policy.method),
                       .seed = c.seed,
                       .holdout_every = c.holdout_every};
  if (!c.chooser.empty()) {
    ASSIGN_OR_RETURN(policy.parameters.chooser,
                     Named(context::ChooserFromName(c.chooser), field, "chooser"));
  }
  ASSIGN_OR_RETURN(
      policy.parameters.reference_kind,
      Named(context::ReferenceKindFromName(c.reference_kind), field, "reference_kind"));
  policy.reference_tokens = c.reference_tokens;
  policy.after_window = c.after_window;
  policy.protect = c.protect;
  policy.stack = c.stack;
  if (c.kind == "none") return policy;
  // With the least prompt there is; each prompt is checked again when it is asked for.
  const absl::Status valid = context::Validate(policy, 1);
  if (valid.ok()) return policy;
  return absl::InvalidArgumentError(field + ": " + std::string(valid.message()));
}

absl::StatusOr<RunPlan> PlanOf(const OrchestratorSection& c) {
  RunPlan plan = c.plan;
  for (const auto& [name, section] : c.contexts) {
    ASSIGN_OR_RETURN(plan.contexts[name], ToPolicy(section, "orchestrator.contexts." + name));
  }
  RETURN_IF_ERROR(Validate(plan));
  return plan;
}

absl::Status Validate(const OrchestratorDaemonConfig& c) {
  RETURN_IF_ERROR(Validate(c.run));
  RETURN_IF_ERROR(Validate(c.tls, Role::kOrchestrator, SystemClock().Now()));
  RETURN_IF_ERROR(ReadListen("orchestrator", c.orchestrator.serve, c.tls).status());
  if (c.orchestrator.trace_every < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("orchestrator.trace_every=%d must be >= 0", c.orchestrator.trace_every));
  }
  return PlanOf(c.orchestrator).status();
}

}  // namespace palimpsest::orchestrator
