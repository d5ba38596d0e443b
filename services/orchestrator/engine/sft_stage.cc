#include "services/orchestrator/engine/sft_stage.h"

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/evaluation.h"

namespace palimpsest::orchestrator {
namespace {

std::string GateName(const SftConfig& stage, int64_t steps) {
  return absl::StrFormat("gate.%s.%d", stage.name, steps);
}

absl::StatusOr<SftSnapshot> Look(const Workplace& place, const SftConfig& stage, int64_t first_step,
                                 int64_t step) {
  SftSnapshot now{.steps = step - first_step};
  ASSIGN_OR_RETURN(const std::vector<StepRow> steps, place.ledger.Steps());
  for (const StepRow& row : steps) {
    if (row.stage == stage.name) now.losses.push_back(row.loss);
  }
  if (!stage.gate.has_value()) return now;
  ASSIGN_OR_RETURN(const std::vector<EvaluationRow> rows,
                   place.ledger.Evaluations(GateName(stage, now.steps), true));
  ASSIGN_OR_RETURN(const std::vector<UnjudgedRow> unjudged,
                   place.ledger.Unjudged(GateName(stage, now.steps), true));
  if (std::ssize(rows) + std::ssize(unjudged) < stage.gate->prompts) return now;
  now.gate_measured_at = now.steps;
  now.gate_reward = MeanReward(rows);
  return now;
}

absl::Status TrainOne(Workplace& place, Training& training, const SftConfig& stage,
                      int64_t stage_step) {
  const int64_t step = training.step() + 1;
  RETURN_IF_ERROR(
      place.ledger.CommitSftBatch({.step = step,
                                   .id = absl::StrFormat("%s.%d", stage.name, stage_step),
                                   .stage = stage.name,
                                   .kind = BatchKind::kSft,
                                   .stage_step = stage_step}));
  return training.TrainThrough(step);
}

}  // namespace

absl::Status RunSftStage(Workplace& place, Training& training, const SftConfig& stage) {
  ASSIGN_OR_RETURN(const int64_t first, place.ledger.BeginStage(stage.name, training.step()));
  place.board.Update([&](Progress& p) {
    p.phase = Phase::kSft;
    p.stage = stage.name;
    p.step = training.step() - first;
    p.total_steps = stage.max_steps;
  });
  for (;;) {
    if (place.patience.stopping()) return Patience::Stopped();
    if (place.paused) {
      place.clock.SleepFor(place.plan.peers.poll);
      continue;
    }
    ASSIGN_OR_RETURN(const SftSnapshot now, Look(place, stage, first, training.step()));
    switch (NextSftAction(now, stage)) {
      case SftAction::kTrain:
        RETURN_IF_ERROR(TrainOne(place, training, stage, now.steps));
        break;
      case SftAction::kMeasureGate:
        RETURN_IF_ERROR(Measure(place, training,
                                {.name = GateName(stage, now.steps),
                                 .context = stage.gate->context,
                                 .greedy = true,
                                 .prompts = stage.gate->prompts,
                                 .split = Split::kSft})
                            .status());
        break;
      case SftAction::kEnd:
        Log(Severity::kInfo, "stage is over", {{"stage", stage.name}, {"steps", now.steps}});
        return place.ledger.EndStage(stage.name, training.step());
    }
  }
}

}  // namespace palimpsest::orchestrator
