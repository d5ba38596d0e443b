#include "services/orchestrator/core/decisions.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_format.h"
#include "common/base/random.h"

namespace palimpsest::orchestrator {

double LearningRateAt(const LearningRate& rate, int32_t warmup, int64_t step, int64_t steps) {
  double share = steps > 1 ? static_cast<double>(step) / static_cast<double>(steps - 1) : 0;
  share = std::min(1.0, share);
  if (rate.shape == RateShape::kCosine) share = (1 - std::cos(std::numbers::pi * share)) / 2;
  const double plain = rate.begin + (rate.end - rate.begin) * share;
  if (step >= warmup) return plain;
  return plain * static_cast<double>(step + 1) / warmup;
}

Episode PromptOf(const std::string& task, Split split, uint64_t run_seed, int64_t index) {
  return {.task = task,
          .split = split,
          .seed = MixSeed({run_seed, Meaning("episode")}),
          .index = index,
          .state = {}};
}

Episode EpisodeOf(const RunPlan& plan, Split split, uint64_t run_seed, int64_t index) {
  const auto tasks = static_cast<int64_t>(plan.tasks.size());
  return PromptOf(plan.tasks[static_cast<size_t>(index % tasks)], split, run_seed, index / tasks);
}

uint64_t GroupSeed(uint64_t run_seed, int64_t group) {
  return MixSeed({run_seed, Meaning("group"), static_cast<uint64_t>(group)});
}

uint64_t HeldoutSeed(uint64_t run_seed, int64_t index) {
  return MixSeed({run_seed, Meaning("heldout"), static_cast<uint64_t>(index)});
}

uint64_t SessionSeed(uint64_t group_seed, int32_t sample) {
  return MixSeed({group_seed, Meaning("session"), static_cast<uint64_t>(sample)});
}

SftAction NextSftAction(const SftSnapshot& now, const SftConfig& stage) {
  if (stage.gate.has_value() && now.gate_measured_at == now.steps &&
      now.gate_reward >= stage.gate->greedy_reward) {
    return SftAction::kEnd;
  }
  if (now.steps >= stage.max_steps) return SftAction::kEnd;
  const auto window = static_cast<size_t>(stage.loss_window);
  if (stage.stop_loss > 0 && now.losses.size() >= window) {
    double sum = 0;
    for (size_t i = now.losses.size() - window; i < now.losses.size(); ++i) sum += now.losses[i];
    if (sum / static_cast<double>(window) < stage.stop_loss) return SftAction::kEnd;
  }
  if (stage.gate.has_value() && now.steps > 0 && now.steps % stage.gate->every == 0 &&
      now.gate_measured_at != now.steps) {
    return SftAction::kMeasureGate;
  }
  return SftAction::kTrain;
}

RlAction NextRlAction(const RlSnapshot& now, const RlConfig& rl) {
  if (now.served < now.trained) return RlAction::kPublish;
  if (now.served >= rl.steps) return RlAction::kDone;
  if (rl.eval_every > 0 && now.served > 0 && now.served % rl.eval_every == 0 && !now.evaluated) {
    return RlAction::kEvaluate;
  }
  if (now.committed == now.trained && now.ready >= rl.prompts_per_batch) return RlAction::kCommit;
  const int64_t batch = now.committed + now.pending / rl.prompts_per_batch;
  const bool fresh = batch < rl.steps && batch - now.served <= rl.max_staleness;
  if (!now.paused && now.in_flight < rl.max_in_flight && (now.reopened > 0 || fresh)) {
    return RlAction::kAdmit;
  }
  return now.trained < now.committed ? RlAction::kTrain : RlAction::kWait;
}

absl::Status ServedByFleet(const std::vector<absl::Status>& answers) {
  bool serves = false;
  absl::Status away;
  for (const absl::Status& answer : answers) {
    if (answer.ok() || absl::IsFailedPrecondition(answer)) {
      serves = true;
    } else if (absl::IsUnavailable(answer)) {
      away = answer;
    } else {
      return answer;
    }
  }
  return serves ? absl::OkStatus() : away;
}

int64_t Staleness(int64_t oldest_source_step, int64_t trainer_step) {
  return std::max<int64_t>(0, trainer_step - oldest_source_step);
}

absl::StatusOr<Resubmission> PlanResubmission(int64_t trainer_step, int64_t ledger_step) {
  if (trainer_step > ledger_step) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "trainer.step=%d is ahead of the ledger's last batch %d: it belongs to another run",
        trainer_step, ledger_step));
  }
  return Resubmission{.after = trainer_step, .through = ledger_step};
}

std::vector<std::string> StopsOf(const std::vector<std::string>& of_run,
                                 const std::vector<std::string>& of_prompt) {
  std::vector<std::string> stops;
  for (const auto* named : {&of_prompt, &of_run}) {
    for (const std::string& stop : *named) {
      if (std::find(stops.begin(), stops.end(), stop) == stops.end()) stops.push_back(stop);
    }
  }
  return stops;
}

std::vector<SampleRun> MissingSamples(const std::vector<int32_t>& have, int32_t samples) {
  std::vector<SampleRun> runs;
  size_t next = 0;
  for (int32_t sample = 0; sample < samples; ++sample) {
    if (next < have.size() && have[next] == sample) {
      ++next;
    } else if (!runs.empty() && runs.back().first + runs.back().n == sample) {
      ++runs.back().n;
    } else {
      runs.push_back({sample, 1});
    }
  }
  return runs;
}

std::vector<SampleRun> InPieces(const SampleRun& run, const std::map<int32_t, size_t>& bytes,
                                size_t most) {
  std::vector<SampleRun> pieces = {{run.first, 0}};
  size_t used = 0;
  for (int32_t sample = run.first; sample < run.first + run.n; ++sample) {
    const auto found = bytes.find(sample);
    const size_t more = found == bytes.end() ? 0 : found->second;
    if (pieces.back().n > 0 && used + more > most) {
      pieces.push_back({sample, 0});
      used = 0;
    }
    ++pieces.back().n;
    used += more;
  }
  return pieces;
}

VersionRange VersionsOf(const std::vector<rl::Span>& spans) {
  if (spans.empty()) return {};
  VersionRange range{spans.front().version.value(), spans.front().version.value()};
  for (const rl::Span& span : spans) {
    range.min = std::min(range.min, span.version.value());
    range.max = std::max(range.max, span.version.value());
  }
  return range;
}

}  // namespace palimpsest::orchestrator
