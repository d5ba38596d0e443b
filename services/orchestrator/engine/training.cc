#include "services/orchestrator/engine/training.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/engine/demonstrations.h"

namespace palimpsest::orchestrator {
namespace {

// Answers of the trainer that it may give right after a restart, before it has failed for good.
constexpr int kMaxGaps = 20;
// Times that inference does not find a version, or finds it damaged, until the trainer is asked for
// it again; then twice as many each time. A slow file system needs some.
constexpr int kRefusalsUntilAsked = 4;

struct Mismatch {
  std::optional<double> kl;  // per token
  std::optional<double> max_abs;
};
Mismatch Combine(const std::vector<MismatchBucket>& buckets) {
  double kl = 0, max_abs = 0;
  int64_t tokens = 0;
  for (const MismatchBucket& bucket : buckets) {
    kl += bucket.kl * static_cast<double>(bucket.tokens);
    tokens += bucket.tokens;
    max_abs = std::max(max_abs, bucket.max_abs);
  }
  if (tokens == 0) return {};
  return {kl / static_cast<double>(tokens), max_abs};
}

}  // namespace

absl::Status Training::TakeVersions(const std::vector<Weights>& published, int64_t trainer_step) {
  for (const Weights& weights : published) {
    if (weights.step <= trainer_step) RETURN_IF_ERROR(place_.ledger.RecordVersion(weights));
  }
  ASSIGN_OR_RETURN(const std::vector<Weights> versions, place_.ledger.Versions());
  step_of_version_.clear();
  for (const Weights& weights : versions) step_of_version_[weights.version.value()] = weights.step;
  return absl::OkStatus();
}

absl::Status Training::ReadStatus() {
  ASSIGN_OR_RETURN(const TrainerStatus status, place_.patience.Persist("trainer.status", [&] {
    absl::StatusOr<TrainerStatus> answer = place_.peers.trainer.Status();
    if (answer.ok() && !answer->serving) {
      answer = absl::UnavailableError("the trainer is not serving yet");
    }
    return answer;
  }));
  ASSIGN_OR_RETURN(const int64_t last, place_.ledger.LastStep());
  RETURN_IF_ERROR(PlanResubmission(status.step, last).status());
  if (status.step < last) {
    Log(Severity::kWarning, "the trainer lacks batches of the ledger",
        {{"trainer_step", status.step}, {"ledger_step", last}});
    RETURN_IF_ERROR(place_.ledger.AbandonVersions(status.step));
    served_step_ = -1;
  }
  step_ = status.step;
  place_.metrics.step.Set(static_cast<double>(step_));
  RETURN_IF_ERROR(TakeVersions(status.published, status.step));
  if (step_ == 0) return absl::OkStatus();
  // The answer to the last batch may have been lost; the trainer has kept it.
  ASSIGN_OR_RETURN(const BatchRow row, place_.ledger.Batch(step_));
  if (!row.trained) step_ -= 1;
  return absl::OkStatus();
}

absl::Status Training::Synchronise() {
  RETURN_IF_ERROR(ReadStatus());
  ASSIGN_OR_RETURN(const int64_t last, place_.ledger.LastStep());
  return TrainThrough(last);
}

absl::Status Training::TrainThrough(int64_t step) {
  int gaps = 0;
  while (step_ < step) {
    if (place_.patience.stopping()) return Patience::Stopped();
    ASSIGN_OR_RETURN(const BatchRow row, place_.ledger.Batch(step_ + 1));
    StepRow facts{.step = row.step, .stage = row.stage};
    ASSIGN_OR_RETURN(const TrainBatch batch, Build(row, facts));
    const TraceScope traced(place_.trace ? place_.trace->OfStep(row.step) : TraceScope::Work{});
    const absl::Time begin = place_.clock.Now();
    const absl::StatusOr<TrainResult> result = place_.peers.trainer.Train(batch);
    facts.train_seconds = absl::ToDoubleSeconds(place_.clock.Now() - begin);
    if (result.ok()) {
      gaps = 0;
      ++step_;
      RETURN_IF_ERROR(Record(row, facts, *result));
      continue;
    }
    const bool gap = absl::IsFailedPrecondition(result.status());
    if (!(gap || MayPass(result.status())) || ++gaps > kMaxGaps) return result.status();
    Log(Severity::kWarning, "a batch was not trained",
        {{"step", row.step}, {"status", result.status().ToString()}});
    RETURN_IF_ERROR(ReadStatus());
    place_.clock.SleepFor(place_.plan.peers.poll);
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainBatch> Training::Build(const BatchRow& row, StepRow& facts) const {
  TrainBatch batch{.id = row.id, .step = row.step};
  if (row.kind == BatchKind::kRl) {
    const RlConfig& rl = place_.plan.rl;
    batch.learning_rate = LearningRateAt(rl.learning_rate, rl.warmup, row.stage_step, rl.steps);
    RETURN_IF_ERROR(BuildRl(row, batch, facts));
    return batch;
  }
  const auto stage = std::find_if(place_.plan.sft.begin(), place_.plan.sft.end(),
                                  [&](const SftConfig& s) { return s.name == row.stage; });
  if (stage == place_.plan.sft.end()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("ledger: step %d is of the stage '%s', which the config does not know",
                        row.step, row.stage));
  }
  RETURN_IF_ERROR(BuildDemonstrations(place_, *stage, row.stage_step, batch));
  return batch;
}

absl::Status Training::BuildRl(const BatchRow& row, TrainBatch& batch, StepRow& facts) const {
  ASSIGN_OR_RETURN(const std::vector<RolloutRow> members, place_.ledger.Members(row.step));
  double reward = 0, total = 0, turns = 0, events = 0, repetition = 0, surprisal = 0;
  for (const RolloutRow& member : members) {
    ASSIGN_OR_RETURN(rl::Rollout rollout, place_.peers.codec.Decode(member.bytes));
    std::vector<int32_t> said;
    for (size_t i = 0; i < rollout.origins.size(); ++i) {
      if (rollout.origins[i] != rl::Origin::kSampled) continue;
      said.push_back(rollout.tokens[i]);
      surprisal -= rollout.logprobs[i];
    }
    facts.sampled_tokens += std::ssize(said);
    repetition += Repetition(said);
    reward += member.reward.value_or(0);
    total += member.total_tokens;
    turns += member.turns;
    events += member.events;
    const std::optional<int64_t> made = OldestStep(member);
    if (made.has_value()) {
      facts.staleness_max = std::max(facts.staleness_max, Staleness(*made, row.step - 1));
    }
    batch.rl.push_back({.rollout = std::move(rollout),
                        .advantage = member.advantage.value_or(0),
                        .reward = member.reward.value_or(0),
                        .group_id = absl::StrFormat("g%06d", member.group)});
  }
  if (members.empty()) {
    return absl::DataLossError(absl::StrFormat("ledger: step %d has no rollouts", row.step));
  }
  const auto n = static_cast<double>(members.size());
  facts.reward = reward / n;
  facts.mean_total_tokens = total / n;
  facts.turns = turns / n;
  facts.events = events / n;
  place_.metrics.repetition.Set(repetition / n);
  place_.metrics.surprisal.Set(surprisal /
                               static_cast<double>(std::max<int64_t>(1, facts.sampled_tokens)));
  return absl::OkStatus();
}

absl::Status Training::Record(const BatchRow& row, StepRow facts, const TrainResult& result) {
  place_.metrics.step.Set(static_cast<double>(row.step));
  if (row.trained) return absl::OkStatus();
  const Mismatch mismatch = Combine(result.mismatch);
  facts.loss = result.loss;
  facts.mismatch_kl = mismatch.kl;
  facts.mismatch_max_abs = mismatch.max_abs;
  facts.loss_tokens = result.loss_tokens;
  facts.rejected = static_cast<int64_t>(result.rejected.size());
  if (row.kind == BatchKind::kRl) facts.generate_seconds = std::exchange(generate_seconds_, 0);
  for (const RejectedRollout& rejected : result.rejected) {
    Log(Severity::kWarning, "the trainer refused a rollout",
        {{"rollout", rejected.rollout_id}, {"why", rejected.message}});
  }
  if (result.skipped) Log(Severity::kWarning, "a step was skipped", {{"step", row.step}});
  std::vector<ByEvents> kl;
  for (const MismatchBucket& bucket : result.mismatch) {
    kl.push_back({bucket.events, bucket.tokens, bucket.kl});
  }
  place_.metrics.mismatch_kl.Set(kl);
  RETURN_IF_ERROR(place_.ledger.MarkTrained(facts, result.replayed));
  Tell(facts);
  return place_.ledger.Beat(place_.clock.Now());
}

void Training::Tell(const StepRow& row) {
  place_.metrics.step_seconds.With({"train"}).Observe(row.train_seconds);
  if (row.reward.has_value()) {
    place_.metrics.step_seconds.With({"generate"}).Observe(row.generate_seconds);
    place_.metrics.reward.Set(*row.reward);
    place_.metrics.staleness.Set(static_cast<double>(row.staleness_max));
    place_.metrics.trained_tokens.Add(static_cast<double>(row.sampled_tokens));
  }
  place_.board.Update([&](Progress& p) {
    p.step += 1;
    p.step_phases["train"] = row.train_seconds;
    if (!row.reward.has_value()) return;
    p.reward = row.reward;
    p.events_per_rollout = row.events;
    p.mean_total_tokens = row.mean_total_tokens;
    p.staleness_max = row.staleness_max;
    p.mismatch_kl = row.mismatch_kl;
    p.mismatch_max_abs = row.mismatch_max_abs;
    p.step_phases["generate"] = row.generate_seconds;
    if (row.generate_seconds > 0) {
      p.tokens_per_second = static_cast<double>(row.sampled_tokens) / row.generate_seconds;
    }
  });
  Log(Severity::kInfo, "step trained",
      {{"step", row.step},
       {"stage", row.stage},
       {"loss", row.loss},
       {"reward", row.reward.value_or(0)},
       {"turns", row.turns},
       {"events", row.events},
       {"staleness", row.staleness_max},
       {"mismatch_kl", row.mismatch_kl.value_or(0)},
       {"mismatch_max_abs", row.mismatch_max_abs.value_or(0)},
       {"generate_s", row.generate_seconds},
       {"train_s", row.train_seconds}});
}

absl::Status Training::Save() {
  for (int tries = 0; tries < kMaxGaps; ++tries) {
    ASSIGN_OR_RETURN(const int64_t durable, place_.patience.Persist("trainer.save", [&] {
      return place_.peers.trainer.SaveCheckpoint();
    }));
    if (durable >= step_) return absl::OkStatus();
    RETURN_IF_ERROR(Synchronise());  // it was rolled back before
  }
  return absl::InternalError(
      absl::StrFormat("step %d is in no checkpoint after %d tries", step_, kMaxGaps));
}

absl::StatusOr<Weights> Training::AskForVersion() {
  absl::StatusOr<Weights> weights = absl::UnavailableError("not tried");
  for (int tries = 0; tries < kMaxGaps; ++tries) {
    weights = place_.patience.Persist("trainer.publish",
                                      [&] { return place_.peers.trainer.Publish(step_); });
    if (!absl::IsFailedPrecondition(weights.status())) break;
    RETURN_IF_ERROR(Synchronise());  // it was rolled back meanwhile
  }
  RETURN_IF_ERROR(weights.status());
  RETURN_IF_ERROR(TakeVersions({*weights}, step_));
  return weights;
}

// A version may be damaged or deleted before inference has read it: it then never comes, and the
// trainer writes another one when it is asked for. One that is only not visible yet is its answer
// again.
absl::Status Training::Publish() {
  const TraceScope traced(place_.trace ? place_.trace->OfStep(step_) : TraceScope::Work{});
  const absl::Time begin = place_.clock.Now();
  ASSIGN_OR_RETURN(Weights weights, AskForVersion());
  const auto refused = [](const absl::Status& s) {
    return absl::IsNotFound(s) || absl::IsDataLoss(s);
  };
  int refusals = 0, ask_at = kRefusalsUntilAsked;
  RETURN_IF_ERROR(place_.patience.PersistWhile(
      "inference.update_weights", [&](const absl::Status& s) { return MayPass(s) || refused(s); },
      [&]() -> absl::Status {
        const absl::Status status = place_.peers.inference.UpdateWeights(weights);
        if (refused(status) && ++refusals == ask_at) {
          ask_at *= 2;
          ASSIGN_OR_RETURN(weights, AskForVersion());
        }
        return status;
      }));
  served_step_ = step_;
  version_ = weights.version;
  const double seconds = absl::ToDoubleSeconds(place_.clock.Now() - begin);
  place_.metrics.step_seconds.With({"publish"}).Observe(seconds);
  place_.metrics.policy_version.Set(static_cast<double>(version_.value()));
  place_.board.Update([&](Progress& p) {
    p.policy_version = version_.value();
    p.step_phases["publish"] = seconds;
  });
  return absl::OkStatus();
}

absl::Status Training::Serve() { return served_step_ == step_ ? absl::OkStatus() : Publish(); }

absl::Status Training::ServeAnew() {
  served_step_ = -1;
  return Synchronise();
}

std::optional<int64_t> Training::OldestStep(const std::vector<rl::Span>& spans) const {
  std::optional<int64_t> oldest;
  for (const rl::Span& span : spans) {
    const auto made = step_of_version_.find(span.version.value());
    if (made == step_of_version_.end()) return std::nullopt;
    oldest = std::min(oldest.value_or(made->second), made->second);
  }
  return oldest;
}

std::optional<int64_t> Training::OldestStep(const RolloutRow& row) const {
  const auto first = step_of_version_.find(row.min_version);
  const auto last = step_of_version_.find(row.max_version);
  if (first == step_of_version_.end() || last == step_of_version_.end()) return std::nullopt;
  int64_t oldest = last->second;
  for (auto made = first; made != last; ++made) oldest = std::min(oldest, made->second);
  return oldest;
}

}  // namespace palimpsest::orchestrator
