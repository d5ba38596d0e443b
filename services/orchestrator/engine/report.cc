#include "services/orchestrator/engine/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"
#include "nlohmann/json.hpp"
#include "services/orchestrator/engine/curve_svg.h"
#include "services/orchestrator/engine/evaluation.h"
#include "services/orchestrator/engine/report_page.h"
#include "services/orchestrator/engine/rl_stage.h"

namespace palimpsest::orchestrator {
namespace {

using Json = nlohmann::ordered_json;

std::vector<double> Rewards(const std::vector<EvaluationRow>& rows,
                            std::optional<bool> needs_memory = std::nullopt) {
  std::vector<double> rewards;
  for (const EvaluationRow& row : rows) {
    if (!needs_memory.has_value() || row.needs_memory == *needs_memory) {
      rewards.push_back(row.reward);
    }
  }
  return rewards;
}

double Mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

absl::StatusOr<HeldoutNumbers> ReadHeldout(const Ledger& ledger, const std::string& name) {
  HeldoutNumbers numbers{.name = name};
  ASSIGN_OR_RETURN(numbers.sampled, ledger.Evaluations(name, false, true));
  ASSIGN_OR_RETURN(numbers.greedy, ledger.Evaluations(name, true));
  for (const bool greedy : {false, true}) {
    ASSIGN_OR_RETURN(const std::vector<UnjudgedRow> unjudged, ledger.Unjudged(name, greedy));
    numbers.unjudged += std::ssize(unjudged);
  }
  return numbers;
}

std::map<std::string, HeldoutNumbers> ByTask(const Workplace& place,
                                             const HeldoutNumbers& numbers) {
  std::map<std::string, HeldoutNumbers> by_task;
  for (auto& [task, rows] : ByTask(place, numbers.sampled)) by_task[task].sampled = rows;
  for (auto& [task, rows] : ByTask(place, numbers.greedy)) by_task[task].greedy = rows;
  return by_task;
}

// Means of the parts of rewards, over the prompts whose reward has such a part.
Json PartsJson(const std::vector<EvaluationRow>& rows) {
  std::map<std::string, std::vector<double>> values;
  for (const EvaluationRow& row : rows) {
    for (const auto& [name, value] : row.parts) values[name].push_back(value);
  }
  Json parts = Json::object();
  for (const auto& [name, of_name] : values) parts[name] = Mean(of_name);
  return parts;
}

// What the trained RL steps were like, all together.
struct RlSums {
  double tokens = 0, seconds = 0, rollouts_total_tokens = 0, events = 0, kl = 0, loss_tokens = 0;
  double turns = 0, max_abs = 0, steps = 0;
  int64_t staleness = 0, rejected = 0;
};
RlSums Sum(const std::vector<StepRow>& steps) {
  RlSums sums;
  for (const StepRow& row : steps) {
    if (!row.reward.has_value()) continue;
    sums.steps += 1;
    sums.tokens += static_cast<double>(row.sampled_tokens);
    sums.seconds += row.generate_seconds;
    sums.rollouts_total_tokens += row.mean_total_tokens;
    sums.turns += row.turns;
    sums.events += row.events;
    sums.staleness = std::max(sums.staleness, row.staleness_max);
    sums.rejected += row.rejected;
    if (!row.mismatch_kl.has_value()) continue;
    const double weight = static_cast<double>(std::max<int64_t>(1, row.loss_tokens));
    sums.kl += *row.mismatch_kl * weight;
    sums.loss_tokens += weight;
    sums.max_abs = std::max(sums.max_abs, row.mismatch_max_abs.value_or(0));
  }
  return sums;
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

Json HeldoutJson(const HeldoutNumbers& numbers) {
  return {{"reward", MeanReward(numbers.sampled)},
          {"reward_half_interval_95", HalfInterval(Rewards(numbers.sampled))},
          {"greedy", MeanReward(numbers.greedy)},
          {"greedy_half_interval_95", HalfInterval(Rewards(numbers.greedy))},
          {"reward_needs_memory", Mean(Rewards(numbers.sampled, true))},
          {"greedy_needs_memory", Mean(Rewards(numbers.greedy, true))},
          {"reward_no_memory", Mean(Rewards(numbers.sampled, false))},
          {"greedy_no_memory", Mean(Rewards(numbers.greedy, false))},
          {"prompts", numbers.sampled.size()},
          {"prompts_needs_memory", Rewards(numbers.sampled, true).size()},
          {"unjudged", numbers.unjudged},
          {"parts", PartsJson(numbers.sampled)},
          {"greedy_parts", PartsJson(numbers.greedy)}};
}

void AddLines(const HeldoutNumbers& numbers, const std::string& when, std::string& lines) {
  for (const auto* rows : {&numbers.sampled, &numbers.greedy}) {
    for (const EvaluationRow& row : *rows) {
      const Json line = {{"index", row.index},
                         {"greedy", row.greedy},
                         {"when", when},
                         {"reward", row.reward},
                         {"needs_memory", row.needs_memory}};
      lines += line.dump() + "\n";
    }
  }
}

}  // namespace

double HalfInterval(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double mean = Mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto n = static_cast<double>(values.size());
  return 1.96 * std::sqrt(squares / (n - 1) / n);
}

absl::StatusOr<ReportFacts> ReadFacts(const Workplace& place) {
  const Ledger& ledger = place.ledger;
  ReportFacts facts{.run = place.run, .context = place.plan.rl.context};
  ASSIGN_OR_RETURN(const context::ContextPolicy policy, FindContext(place.plan, facts.context));
  if (const auto* trigger = std::get_if<context::KvBudget>(&policy.trigger)) {
    facts.kv_budget = trigger->budget;
  }
  ASSIGN_OR_RETURN(facts.first, ReadHeldout(ledger, "first"));
  ASSIGN_OR_RETURN(facts.last, ReadHeldout(ledger, "last"));
  facts.first_by_task = ByTask(place, facts.first);
  facts.last_by_task = ByTask(place, facts.last);
  for (const std::string& context : place.plan.heldout.also) {
    ASSIGN_OR_RETURN(facts.also[context], ReadHeldout(ledger, "also." + context));
  }
  ASSIGN_OR_RETURN(facts.steps, ledger.Steps());
  for (const StepRow& row : facts.steps) {
    if (!row.reward.has_value()) continue;
    ++facts.rl_steps;
    ASSIGN_OR_RETURN(HeldoutNumbers between,
                     ReadHeldout(ledger, absl::StrFormat("step-%d", facts.rl_steps)));
    if (!between.sampled.empty()) facts.between.push_back(std::move(between));
  }
  ASSIGN_OR_RETURN(facts.wall_s, ledger.WallSeconds());
  facts.attempts = place.attempt + 1;
  ASSIGN_OR_RETURN(facts.policy_versions, ledger.VersionCount());
  ASSIGN_OR_RETURN(facts.counts, ledger.Counts());
  return facts;
}

std::string ReportJson(const ReportFacts& facts) {
  const RlSums sums = Sum(facts.steps);
  Json report = {{"run", facts.run.name},
                 {"seed", facts.run.seed},
                 {"reward_first", MeanReward(facts.first.sampled)},
                 {"reward_last", MeanReward(facts.last.sampled)},
                 {"greedy_first", MeanReward(facts.first.greedy)},
                 {"greedy_last", MeanReward(facts.last.greedy)},
                 {"heldout_reward", MeanReward(facts.last.sampled)},
                 {"steps", facts.rl_steps},
                 {"sft_steps", static_cast<int64_t>(facts.steps.size()) - facts.rl_steps},
                 {"wall_s", facts.wall_s},
                 {"attempts", facts.attempts},
                 {"tokens_per_s", Ratio(sums.tokens, sums.seconds)},
                 {"turns_per_rollout", Ratio(sums.turns, sums.steps)},
                 {"events_per_rollout", Ratio(sums.events, sums.steps)},
                 {"kv_budget", facts.kv_budget},
                 {"mean_total_tokens", Ratio(sums.rollouts_total_tokens, sums.steps)},
                 {"mismatch_kl", Ratio(sums.kl, sums.loss_tokens)},
                 {"mismatch_max_abs", sums.max_abs},
                 {"staleness_max", sums.staleness},
                 {"policy_versions", facts.policy_versions},
                 {"heldout_n", facts.last.sampled.size()},
                 {"context", facts.context},
                 {"rejected_by_trainer", sums.rejected}};
  report["heldout_first"] = HeldoutJson(facts.first);
  report["heldout_last"] = HeldoutJson(facts.last);
  report["heldout_by_context"] = Json::object();
  report["heldout_by_context"][facts.context] = HeldoutJson(facts.last);
  for (const auto& [context, numbers] : facts.also) {
    report["heldout_by_context"][context] = HeldoutJson(numbers);
  }
  report["heldout_by_task"] = Json::object();
  for (const auto& [task, numbers] : facts.last_by_task) {
    const auto before = facts.first_by_task.find(task);
    Json& of_task = report["heldout_by_task"][task];
    if (before != facts.first_by_task.end()) of_task["first"] = HeldoutJson(before->second);
    of_task["last"] = HeldoutJson(numbers);
  }
  report["rollouts"] = Json(facts.counts);
  report["command"] = facts.run.command;
  report["settings"] = Json(facts.run.settings);
  return report.dump(2) + "\n";
}

std::string HeldoutLines(const ReportFacts& facts) {
  std::string lines;
  AddLines(facts.first, "first", lines);
  AddLines(facts.last, "last", lines);
  for (const auto& [context, numbers] : facts.also) AddLines(numbers, "last." + context, lines);
  return lines;
}

absl::Status WriteReport(const Workplace& place) {
  ASSIGN_OR_RETURN(const ReportFacts facts, ReadFacts(place));
  const std::string folder = place.run.folder + "/report";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::InternalError(folder + ": " + error.message());
  ASSIGN_OR_RETURN(const std::string page, ReportPage(place, facts));
  RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/heldout.jsonl", HeldoutLines(facts)));
  RETURN_IF_ERROR(
      weights::WriteFileDurably(folder + "/learning_curve.svg", CurveSvg(LearningCurve(facts))));
  RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/report.md", page));
  // Last: who waits for the report waits for this file.
  return weights::WriteFileDurably(folder + "/report.json", ReportJson(facts));
}

}  // namespace palimpsest::orchestrator
