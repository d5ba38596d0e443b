#include "services/orchestrator/server/messages.h"

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/replayed.h"
#include "common/wire/rollout.h"

namespace palimpsest::orchestrator {

v1::WeightsAnnouncement AnnouncementToProto(const Weights& weights) {
  v1::WeightsAnnouncement proto;
  proto.set_version(weights.version.value());
  if (weights.parent.has_value()) proto.set_parent_version(weights.parent->value());
  proto.set_source_step(weights.step);
  proto.set_run(weights.run);
  proto.set_attempt(weights.attempt);
  proto.set_manifest_digest(weights.manifest_digest);
  return proto;
}

Weights AnnouncementFromProto(const v1::WeightsAnnouncement& proto) {
  Weights weights{.version = PolicyVersion(proto.version()),
                  .step = proto.source_step(),
                  .run = proto.run(),
                  .attempt = proto.attempt(),
                  .manifest_digest = proto.manifest_digest()};
  if (proto.has_parent_version()) weights.parent = PolicyVersion(proto.parent_version());
  return weights;
}

v1::TrainBatchRequest BatchToProto(const TrainBatch& batch) {
  v1::TrainBatchRequest request;
  request.set_batch_id(batch.id);
  request.set_step(batch.step);
  request.set_learning_rate(batch.learning_rate);
  request.set_kind(batch.rl.empty() ? v1::BATCH_KIND_SFT : v1::BATCH_KIND_RL);
  for (const SftItem& item : batch.sft) {
    v1::SftItem& sft = *request.add_items()->mutable_sft();
    sft.set_id(item.id);
    sft.mutable_ids()->Add(item.ids.begin(), item.ids.end());
    sft.mutable_loss_mask()->Add(item.loss_mask.begin(), item.loss_mask.end());
    sft.set_prompt_tokens(item.prompt_tokens);
    sft.mutable_turn_begins()->Add(item.turn_begins.begin(), item.turn_begins.end());
    sft.set_weight(1);
    if (!std::holds_alternative<context::NoTrigger>(batch.context.trigger)) {
      *sft.mutable_context() = wire::ToProto(batch.context);
    }
  }
  for (const RlItem& item : batch.rl) {
    v1::RlItem& rl = *request.add_items()->mutable_rl();
    *rl.mutable_rollout() = wire::ToProto(item.rollout);
    rl.set_advantage(item.advantage);
    rl.set_weight(1);
    rl.set_group_id(item.group_id);
    rl.set_outcome(v1::OUTCOME_OK);
    rl.set_reward(item.reward);
  }
  return request;
}

absl::StatusOr<TrainResult> ResultFromProto(const v1::TrainBatchResponse& proto,
                                            const TrainBatch& batch) {
  TrainResult result;
  result.already_trained = proto.already_trained();
  result.skipped = proto.skipped();
  result.loss = proto.loss();
  result.grad_norm = proto.grad_norm();
  result.loss_tokens = proto.loss_tokens();
  result.entropy = proto.entropy();
  for (const v1::MismatchBucket& bucket : proto.mismatch()) {
    result.mismatch.push_back({bucket.events(), bucket.tokens(), bucket.kl(), bucket.max_abs()});
  }
  for (const v1::RejectedRollout& rejected : proto.rejected()) {
    result.rejected.push_back({rejected.rollout_id(), rejected.message()});
  }
  std::map<std::string, int64_t> sampled;
  for (const RlItem& item : batch.rl) sampled[item.rollout.id] = rl::SampledTokens(item.rollout);
  absl::StatusOr<std::vector<rl::Replayed>> replayed = wire::FromProto(proto.replayed(), sampled);
  if (!replayed.ok()) {
    return absl::InternalError(
        absl::StrFormat("trainer: %s", std::string(replayed.status().message())));
  }
  result.replayed = *std::move(replayed);
  return result;
}

v1::Progress ProgressToProto(const Progress& p, const std::vector<PeerFacts>& peers) {
  v1::Progress proto;
  proto.set_run(p.run);
  proto.set_attempt(p.attempt);
  proto.set_phase(static_cast<v1::RunPhase>(p.phase));
  proto.set_step(p.step);
  proto.set_total_steps(p.total_steps);
  if (p.reward.has_value()) proto.set_reward(*p.reward);
  for (const HeldoutMean& mean : p.heldout) {
    v1::HeldoutResult& heldout = *proto.add_heldout();
    heldout.set_step(mean.step);
    heldout.set_reward(mean.reward);
    heldout.set_greedy_reward(mean.greedy);
    heldout.set_prompts(mean.prompts);
  }
  proto.set_tokens_per_second(p.tokens_per_second);
  proto.set_events_per_rollout(p.events_per_rollout);
  proto.set_mean_total_tokens(p.mean_total_tokens);
  proto.set_staleness_max(static_cast<int32_t>(p.staleness_max));
  if (p.mismatch_kl.has_value()) proto.set_mismatch_kl(*p.mismatch_kl);
  if (p.mismatch_max_abs.has_value()) proto.set_mismatch_max_abs(*p.mismatch_max_abs);
  proto.set_policy_version(p.policy_version);
  for (const auto& [outcome, n] : p.outcomes) {
    v1::OutcomeCount& count = *proto.add_outcomes();
    count.set_outcome(wire::ToProto(outcome));
    count.set_rollouts(n);
  }
  for (const PeerFacts& facts : peers) {
    v1::PeerState& peer = *proto.add_peers();
    peer.set_role(facts.role);
    peer.set_rank(facts.rank);
    peer.set_address(facts.address);
    peer.set_ready(facts.ready);
    peer.set_last_error(facts.last_error);
  }
  proto.set_elapsed_seconds(p.elapsed_seconds);
  if (p.left_seconds.has_value()) proto.set_left_seconds(*p.left_seconds);
  for (const auto& [name, seconds] : p.step_phases) {
    v1::PhaseSeconds& phase = *proto.add_step_phases();
    phase.set_phase(name);
    phase.set_seconds(seconds);
  }
  proto.set_sequence(p.sequence);
  proto.set_failure(p.failure);
  return proto;
}

v1::RolloutSummary SummaryToProto(const RolloutRow& row) {
  v1::RolloutSummary proto;
  proto.set_rollout_id(row.id);
  proto.set_group_id(absl::StrFormat("g%06d", row.group));
  v1::Episode& episode = *proto.mutable_episode();
  episode.set_task(row.episode.task);
  episode.set_split(static_cast<v1::Split>(row.episode.split));
  episode.set_seed(row.episode.seed);
  episode.set_index(row.episode.index);
  episode.set_state(row.episode.state);
  proto.set_outcome(wire::ToProto(row.outcome));
  if (row.reward.has_value()) proto.set_reward(*row.reward);
  if (row.advantage.has_value()) proto.set_advantage(*row.advantage);
  proto.set_batch_id(row.batch_id);
  if (row.step.has_value()) proto.set_step(*row.step);
  proto.set_prompt_tokens(row.prompt_tokens);
  proto.set_total_tokens(row.total_tokens);
  proto.set_turns(row.turns);
  proto.set_events(row.events);
  proto.set_min_policy_version(row.min_version);
  proto.set_max_policy_version(row.max_version);
  proto.set_accepted_unix_ms(row.accepted_unix_ms);
  return proto;
}

std::string WireRolloutCodec::Encode(const rl::Rollout& rollout) const {
  return wire::ToProto(rollout).SerializeAsString();
}

absl::StatusOr<rl::Rollout> WireRolloutCodec::Decode(std::string_view bytes) const {
  v1::Rollout proto;
  if (!proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("ledger: the bytes of a rollout are no rollout");
  }
  return wire::FromProto(proto);
}

}  // namespace palimpsest::orchestrator
