#include "services/trainer/engine/options.h"

#include "absl/strings/str_format.h"
#include "services/trainer/core/step_ledger.h"

namespace palimpsest::trainer {
namespace {

absl::Status AtLeast(const char* field, int32_t value, int32_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("trainer.%s=%d is not >= %d", field, value, least));
}

absl::Status Under(const char* section, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrFormat("trainer.%s.%s", section, std::string(status.message())));
}

}  // namespace

absl::Status Validate(const EngineOptions& o) {
  RETURN_IF_ERROR(Validate(o.run));
  RETURN_IF_ERROR(Validate(o.model));
  RETURN_IF_ERROR(AtLeast("threads", o.threads, 1));
  RETURN_IF_ERROR(AtLeast("max_tokens_per_micro_batch", o.max_tokens_per_micro_batch, 2));
  RETURN_IF_ERROR(AtLeast("keep_checkpoints", o.keep_checkpoints, 1));
  RETURN_IF_ERROR(AtLeast("keep_every", o.keep_every, 0));
  if (o.resume < -1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "trainer.resume=%d is neither a step nor -1, the newest whole checkpoint", o.resume));
  }
  RETURN_IF_ERROR(AtLeast("keep_versions", o.keep_versions, 2));
  RETURN_IF_ERROR(AtLeast("max_skipped_in_a_row", o.max_skipped_in_a_row, 0));
  if (o.max_skipped_in_a_row > static_cast<int32_t>(StepLedger::kRemembered)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.max_skipped_in_a_row=%d is more than the %d steps that are "
                        "remembered",
                        o.max_skipped_in_a_row, StepLedger::kRemembered));
  }
  if (o.weights == WeightsHeld::kSharded && o.activations != model::Activations::kRecomputed) {
    return absl::InvalidArgumentError(
        "trainer.weights=sharded needs trainer.activations=recomputed: kept ones would hold the "
        "weights of their layers");
  }
  if (!o.reference_folder.empty() && o.loss.reference_kl.coefficient == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("trainer.reference_folder=%s with trainer.loss.reference_kl.coefficient=0 "
                        "has no effect",
                        o.reference_folder));
  }
  RETURN_IF_ERROR(Under("loss", Validate(o.loss)));
  RETURN_IF_ERROR(Under("shadow", Validate(o.shadow)));
  if (o.loss.correction.kind == rl::CorrectionKind::kSparseRl &&
      o.shadow.learner == rl::View::kShadow) {
    return absl::InvalidArgumentError(
        "trainer.loss.correction.kind=sparse_rl with trainer.shadow.view=shadow: rollouts are "
        "sampled from their shadow, so it has nothing to weigh there; set view: dense");
  }
  RETURN_IF_ERROR(Under("optimizer", Validate(o.optimizer)));
  return Under("schedule", Validate(o.schedule));
}

}  // namespace palimpsest::trainer
