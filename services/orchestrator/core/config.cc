#include "services/orchestrator/core/config.h"

#include <set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace palimpsest::orchestrator {
namespace {

absl::Status Wrong(const std::string& field, double value, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("orchestrator.%s=%g %s", field, value, what));
}

absl::Status Positive(const std::string& field, double value) {
  return value > 0 ? absl::OkStatus() : Wrong(field, value, "must be above 0");
}

absl::Status NotNegative(const std::string& field, double value) {
  return value >= 0 ? absl::OkStatus() : Wrong(field, value, "must not be negative");
}

absl::Status KnownContext(const RunPlan& plan, const std::string& field, const std::string& name) {
  const auto found = FindContext(plan, name);
  if (found.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("orchestrator.%s: %s", field, std::string(found.status().message())));
}

absl::Status CheckRate(const std::string& field, const LearningRate& rate, int32_t warmup) {
  RETURN_IF_ERROR(Positive(field + ".learning_rate.begin", rate.begin));
  RETURN_IF_ERROR(Positive(field + ".learning_rate.end", rate.end));
  return NotNegative(field + ".warmup", warmup);
}

absl::Status CheckSft(const RunPlan& plan, const SftConfig& stage, const std::string& field) {
  RETURN_IF_ERROR(Positive(field + ".max_steps", static_cast<double>(stage.max_steps)));
  RETURN_IF_ERROR(Positive(field + ".batch", stage.batch));
  RETURN_IF_ERROR(Positive(field + ".loss_window", stage.loss_window));
  RETURN_IF_ERROR(CheckRate(field, stage.learning_rate, stage.warmup));
  RETURN_IF_ERROR(NotNegative(field + ".stop_loss", stage.stop_loss));
  if (!(stage.answer_noise >= 0 && stage.answer_noise <= 1)) {
    return Wrong(field + ".answer_noise", stage.answer_noise, "must lie in [0, 1]");
  }
  if (stage.contexts.empty()) {
    return absl::InvalidArgumentError("orchestrator." + field + ".contexts is empty");
  }
  for (const std::string& name : stage.contexts) {
    RETURN_IF_ERROR(KnownContext(plan, field + ".contexts", name));
  }
  if (!stage.gate.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(KnownContext(plan, field + ".gate.context", stage.gate->context));
  RETURN_IF_ERROR(Positive(field + ".gate.greedy_reward", stage.gate->greedy_reward));
  RETURN_IF_ERROR(Positive(field + ".gate.every", static_cast<double>(stage.gate->every)));
  return Positive(field + ".gate.prompts", stage.gate->prompts);
}

absl::Status CheckCurriculum(const RlConfig& rl) {
  const TaskWeights& weights = rl.task_weights;
  RETURN_IF_ERROR(Positive("rl.task_weights.window", weights.window));
  RETURN_IF_ERROR(NotNegative("rl.task_weights.hard", weights.hard));
  if (!(weights.easy > weights.hard && weights.easy <= 1)) {
    return Wrong("rl.task_weights.easy", weights.easy, "must lie in (hard, 1]");
  }
  if (!(weights.pool_share >= 0 && weights.pool_share < 1)) {
    return Wrong("rl.task_weights.pool_share", weights.pool_share, "must lie in [0, 1)");
  }
  if (rl.max_redraws > 0 && (rl.filter.all_solved || rl.filter.none_solved)) {
    return Wrong("rl.max_redraws", rl.max_redraws,
                 "must be 0 beside rl.filter, which leaves such groups out already");
  }
  return Positive("rl.filter.max_in_a_row", rl.filter.max_in_a_row);
}

absl::Status CheckRl(const RunPlan& plan) {
  const RlConfig& rl = plan.rl;
  RETURN_IF_ERROR(NotNegative("rl.steps", static_cast<double>(rl.steps)));
  RETURN_IF_ERROR(Positive("rl.prompts_per_batch", rl.prompts_per_batch));
  if (rl.samples < 2) return Wrong("rl.samples", rl.samples, "must be at least 2");
  RETURN_IF_ERROR(CheckRate("rl", rl.learning_rate, rl.warmup));
  RETURN_IF_ERROR(Positive("rl.temperature", rl.temperature));
  RETURN_IF_ERROR(Positive("rl.max_tokens", rl.max_tokens));
  RETURN_IF_ERROR(NotNegative("rl.max_staleness", rl.max_staleness));
  RETURN_IF_ERROR(Positive("rl.advantage_eps", rl.advantage.epsilon));
  if (const absl::Status overlong = Validate(rl.overlong); !overlong.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("orchestrator.rl.overlong.%s", std::string(overlong.message())));
  }
  RETURN_IF_ERROR(NotNegative("rl.max_redraws", rl.max_redraws));
  RETURN_IF_ERROR(NotNegative("rl.eval_every", static_cast<double>(rl.eval_every)));
  RETURN_IF_ERROR(Positive("rl.max_in_flight", rl.max_in_flight));
  RETURN_IF_ERROR(Positive("rl.max_tries", rl.max_tries));
  RETURN_IF_ERROR(CheckCurriculum(rl));
  return KnownContext(plan, "rl.context", rl.context);
}

absl::Status CheckPeers(const PeersConfig& peers) {
  RETURN_IF_ERROR(Positive("peers.inference", peers.inference));
  RETURN_IF_ERROR(Positive("peers.env", peers.env));
  const std::pair<const char*, absl::Duration> times[] = {
      {"peers.patience", peers.patience},
      {"peers.poll", peers.poll},
      {"peers.max_poll", peers.max_poll},
      {"peers.call_deadline", peers.call_deadline},
      {"peers.env_deadline", peers.env_deadline},
      {"peers.train_deadline", peers.train_deadline},
      {"peers.generate_deadline", peers.generate_deadline}};
  for (const auto& [name, value] : times) {
    RETURN_IF_ERROR(Positive(name, absl::ToDoubleSeconds(value)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const RunPlan& plan) {
  if (plan.tasks.empty()) return absl::InvalidArgumentError("orchestrator.tasks is empty");
  for (const std::string& stop : plan.stop_strings) {
    if (stop.empty()) return absl::InvalidArgumentError("orchestrator.stop_strings: one is empty");
  }
  std::set<std::string> names;
  for (const SftConfig& stage : plan.sft) {
    const std::string field = "sft[" + stage.name + "]";
    if (stage.name.empty() || !names.insert(stage.name).second) {
      return absl::InvalidArgumentError("orchestrator." + field + ".name is empty or there twice");
    }
    RETURN_IF_ERROR(CheckSft(plan, stage, field));
  }
  RETURN_IF_ERROR(CheckRl(plan));
  RETURN_IF_ERROR(Positive("heldout.prompts", plan.heldout.prompts));
  for (const std::string& name : plan.heldout.also) {
    RETURN_IF_ERROR(KnownContext(plan, "heldout.also", name));
  }
  return CheckPeers(plan.peers);
}

absl::StatusOr<context::ContextPolicy> FindContext(const RunPlan& plan, const std::string& name) {
  const auto found = plan.contexts.find(name);
  if (found != plan.contexts.end()) return found->second;
  if (name == "none") return context::ContextPolicy{};
  const std::string known = absl::StrJoin(
      plan.contexts, ", ", [](std::string* out, const auto& entry) { *out += entry.first; });
  return absl::NotFoundError(absl::StrFormat("context '%s' is not one of: none, %s", name, known));
}

}  // namespace palimpsest::orchestrator
