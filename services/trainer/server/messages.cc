#include "services/trainer/server/messages.h"

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/replayed.h"
#include "common/wire/rollout.h"

namespace palimpsest::trainer {
namespace {

Rejected Unreadable(const std::string& id, const absl::Status& status) {
  const std::string message(status.message());
  const bool log = absl::StrContains(message, ".events[");
  return {id, log ? RejectReason::kLog : RejectReason::kMalformed, message};
}

absl::StatusOr<RlItem> FromProto(const v1::RlItem& proto) {
  RlItem item{.advantage = proto.advantage(), .weight = proto.weight()};
  ASSIGN_OR_RETURN(item.rollout, wire::FromProto(proto.rollout()));
  ASSIGN_OR_RETURN(item.outcome, wire::FromProto(proto.outcome(), "outcome"));
  return item;
}

absl::StatusOr<SftItem> FromProto(const v1::SftItem& proto) {
  SftItem item{.id = proto.id(),
               .ids = {proto.ids().begin(), proto.ids().end()},
               .loss_mask = {proto.loss_mask().begin(), proto.loss_mask().end()},
               .prompt_tokens = proto.prompt_tokens(),
               .turn_begins = {proto.turn_begins().begin(), proto.turn_begins().end()},
               .weight = proto.weight()};
  if (proto.has_context()) {
    ASSIGN_OR_RETURN(item.context, wire::FromProto(proto.context()));
  }
  return item;
}

// Reads one item into `items`, or notes why not.
template <class Proto, class Item>
void Take(const Proto& proto, const std::string& id, std::vector<Item>& items, Batch& batch) {
  absl::StatusOr<Item> item = FromProto(proto);
  if (item.ok()) {
    items.push_back(*std::move(item));
  } else {
    batch.unreadable.push_back(Unreadable(id, item.status()));
  }
}

}  // namespace

absl::StatusOr<Batch> FromProto(const v1::TrainBatchRequest& request) {
  if (request.kind() != v1::BATCH_KIND_RL && request.kind() != v1::BATCH_KIND_SFT) {
    return absl::InvalidArgumentError(
        absl::StrFormat("kind=%d is neither RL nor SFT", static_cast<int>(request.kind())));
  }
  Batch batch{.id = request.batch_id(), .step = request.step()};
  if (request.has_learning_rate()) batch.learning_rate = request.learning_rate();
  const bool rl = request.kind() == v1::BATCH_KIND_RL;
  for (int i = 0; i < request.items_size(); ++i) {
    const v1::TrainItem& item = request.items(i);
    if (rl ? !item.has_rl() : !item.has_sft()) {
      return absl::InvalidArgumentError(absl::StrFormat("items[%d] is not of the batch's kind", i));
    }
    if (rl) {
      Take(item.rl(), item.rl().rollout().id(), batch.rl, batch);
    } else {
      Take(item.sft(), item.sft().id(), batch.sft, batch);
    }
  }
  return batch;
}

v1::TrainBatchResponse ToProto(const TrainOutcome& outcome) {
  const StepResult& r = outcome.result;
  v1::TrainBatchResponse proto;
  proto.set_step(r.step);
  proto.set_already_trained(outcome.already_trained);
  proto.set_loss(r.loss);
  proto.set_grad_norm(r.grad_norm);
  proto.set_learning_rate(r.learning_rate);
  proto.set_tokens(r.tokens);
  proto.set_loss_tokens(r.loss_tokens);
  proto.set_entropy(r.entropy);
  proto.set_skipped(r.skipped);
  proto.set_peak_bytes(r.peak_bytes);
  for (const MismatchBucket& m : r.mismatch) {
    v1::MismatchBucket& bucket = *proto.add_mismatch();
    bucket.set_events(m.events);
    bucket.set_tokens(m.tokens);
    bucket.set_kl(m.kl);
    bucket.set_mean_abs(m.mean_abs);
    bucket.set_max_abs(m.max_abs);
  }
  if (r.ratio) {
    v1::RatioStats& ratio = *proto.mutable_ratio();
    ratio.set_mean(r.ratio->mean);
    ratio.set_max(r.ratio->max);
    ratio.set_clip_share(r.ratio->clip_share);
    ratio.set_truncated_share(r.ratio->truncated_share);
    ratio.set_effective_sample_size(r.ratio->effective_sample_size);
    ratio.set_masked_share(r.ratio->masked_share);
  }
  if (r.reference_kl) proto.set_reference_kl(*r.reference_kl);
  for (const rl::Replayed& replayed : outcome.replayed) {
    *proto.add_replayed() = wire::ToProto(replayed);
  }
  for (const Rejected& x : r.rejected) {
    v1::RejectedRollout& rejected = *proto.add_rejected();
    rejected.set_rollout_id(x.id);
    rejected.set_reason(static_cast<v1::RejectReason>(x.reason));  // the same numbers
    rejected.set_message(x.message);
  }
  for (const auto& [phase, seconds] : r.phases) {
    v1::PhaseSeconds& p = *proto.add_phases();
    p.set_phase(phase);
    p.set_seconds(seconds);
  }
  return proto;
}

v1::WeightsAnnouncement ToProto(const PublishedVersion& version) {
  v1::WeightsAnnouncement proto;
  proto.set_version(version.version.value());
  if (version.parent) proto.set_parent_version(version.parent->value());
  proto.set_source_step(version.source_step);
  proto.set_run(version.run);
  proto.set_attempt(static_cast<int32_t>(version.attempt));
  return proto;
}

v1::TrainerPhase ToProto(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
      return v1::TRAINER_PHASE_IDLE;
    case Phase::kReplay:
      return v1::TRAINER_PHASE_REPLAY;
    case Phase::kOptimizer:
      return v1::TRAINER_PHASE_OPTIMIZER;
    case Phase::kPublish:
      return v1::TRAINER_PHASE_PUBLISH;
    case Phase::kCheckpoint:
      return v1::TRAINER_PHASE_CHECKPOINT;
  }
  return v1::TRAINER_PHASE_UNSPECIFIED;
}

}  // namespace palimpsest::trainer
