#include "services/orchestrator/engine/evaluation.h"

#include <set>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/samples.h"

namespace palimpsest::orchestrator {
namespace {

// How often a trainer may go back during one measurement.
constexpr int kMaxReturns = 20;

// ABORTED: other weights than `version` have answered. A prompt that no try could measure is kept
// as such: nobody's failure becomes a reward.
absl::Status MeasureOne(const Workplace& place, const Measurement& what,
                        const context::ContextPolicy& policy, PolicyVersion version,
                        int64_t index) {
  const SampleOrder order{
      .id = absl::StrFormat("%s-%s-%d.a%d", what.name, what.greedy ? "greedy" : "t1", index,
                            place.attempt),
      .group = index,
      .episode = EpisodeOf(place.plan, what.split, place.run.seed, index),
      .samples = 1,
      .seed = HeldoutSeed(place.run.seed, index),
      .temperature = what.greedy ? 0.0 : 1.0,
      .max_tokens = place.plan.rl.max_tokens,
      .context = policy,
      .min_version = version,
      .max_tries = place.plan.rl.max_tries};
  ASSIGN_OR_RETURN(Made made, MakeSamples(place, order));
  if (made.stopped) return Patience::Stopped();
  if (made.rollouts.empty()) {
    Log(Severity::kWarning, "a held-out prompt could not be measured",
        {{"evaluation", what.name}, {"prompt", index}, {"why", made.failure}});
    return place.ledger.SaveUnjudged({what.name, what.greedy, index, made.failure});
  }
  RolloutRow& row = made.rollouts.front();
  if (row.min_version != version.value() || row.max_version != version.value()) {
    return absl::AbortedError(absl::StrFormat("prompt %d was answered by weights %d to %d, not %d",
                                              index, row.min_version, row.max_version,
                                              version.value()));
  }
  EvaluationRow result{what.name, what.greedy, index, row.reward.value_or(0), made.needs_memory};
  result.total_tokens = row.total_tokens;
  result.turns = row.turns;
  result.events = row.events;
  result.reason = std::move(row.reason);
  result.parts = std::move(row.parts);
  result.text = std::move(row.text);
  if (index < kKeptEvaluations) result.bytes = std::move(row.bytes);
  return place.ledger.SaveEvaluation(result);
}

absl::Status MeasureMissing(const Workplace& place, Training& training, const Measurement& what) {
  ASSIGN_OR_RETURN(const context::ContextPolicy policy, FindContext(place.plan, what.context));
  ASSIGN_OR_RETURN(const std::vector<EvaluationRow> before,
                   place.ledger.Evaluations(what.name, what.greedy));
  std::set<int64_t> missing;
  for (int64_t i = 0; i < what.prompts; ++i) missing.insert(i);
  for (const EvaluationRow& row : before) missing.erase(row.index);
  ASSIGN_OR_RETURN(const std::vector<UnjudgedRow> unjudged,
                   place.ledger.Unjudged(what.name, what.greedy));
  for (const UnjudgedRow& row : unjudged) missing.erase(row.index);
  const std::vector<int64_t> order(missing.begin(), missing.end());
  if (order.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(training.Serve());
  return place.workers.ForEach(static_cast<int64_t>(order.size()), [&](int64_t i) -> absl::Status {
    RETURN_IF_ERROR(
        MeasureOne(place, what, policy, training.version(), order[static_cast<size_t>(i)]));
    place.board.Update([](Progress& p) {
      if (p.phase == Phase::kEvaluation) ++p.step;
    });
    return absl::OkStatus();
  });
}

// Of the run's own policy: the others are measured once, at the end.
void TellMetrics(const Workplace& place, const Measurement& what,
                 const std::vector<EvaluationRow>& rows, size_t unjudged) {
  const std::string sampling = what.greedy ? "greedy" : "sampled";
  place.metrics.heldout_unjudged.With({sampling}).Set(static_cast<double>(unjudged));
  place.metrics.heldout_reward.With({sampling}).Set(MeanReward(rows));
  for (const auto& [task, of_task] : ByTask(place, rows)) {
    place.metrics.heldout_task_reward.With({sampling, task}).Set(MeanReward(of_task));
  }
}

}  // namespace

double MeanReward(const std::vector<EvaluationRow>& rows) {
  double sum = 0;
  for (const EvaluationRow& row : rows) sum += row.reward;
  return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
}

std::map<std::string, std::vector<EvaluationRow>> ByTask(const Workplace& place,
                                                         const std::vector<EvaluationRow>& rows) {
  std::map<std::string, std::vector<EvaluationRow>> by_task;
  for (const EvaluationRow& row : rows) {
    const Episode episode = EpisodeOf(place.plan, Split::kHeldout, place.run.seed, row.index);
    by_task[episode.task].push_back(row);
  }
  return by_task;
}

absl::StatusOr<double> Measure(const Workplace& place, Training& training,
                               const Measurement& what) {
  for (int returns = 0;; ++returns) {
    const absl::Status status = MeasureMissing(place, training, what);
    if (status.ok()) break;
    if (!absl::IsAborted(status) || returns == kMaxReturns) return status;
    Log(Severity::kWarning, "prompts are measured again",
        {{"evaluation", what.name}, {"why", status.ToString()}});
    RETURN_IF_ERROR(training.Synchronise());
  }
  ASSIGN_OR_RETURN(const std::vector<EvaluationRow> rows,
                   place.ledger.Evaluations(what.name, what.greedy));
  ASSIGN_OR_RETURN(const std::vector<UnjudgedRow> unjudged,
                   place.ledger.Unjudged(what.name, what.greedy));
  if (rows.empty() && !unjudged.empty()) {
    return absl::InternalError(
        absl::StrFormat("evaluation %s: none of %d prompts could be measured; the first: %s",
                        what.name, unjudged.size(), unjudged.front().reason));
  }
  if (what.split == Split::kHeldout && what.context == place.plan.rl.context) {
    TellMetrics(place, what, rows, unjudged.size());
  }
  const double mean = MeanReward(rows);
  Log(Severity::kInfo, "measured",
      {{"evaluation", what.name},
       {"context", what.context},
       {"greedy", what.greedy},
       {"prompts", rows.size()},
       {"unjudged", unjudged.size()},
       {"reward", mean}});
  return mean;
}

}  // namespace palimpsest::orchestrator
