#include "services/trainer/engine/options.h"

#include "absl/strings/str_format.h"

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
  if (o.dtype == model::DType::kBFloat16) {
    return absl::InvalidArgumentError(
        "trainer.dtype=bfloat16: updates would be lost in its 8 bits, and fp32 master weights are "
        "not built yet; use float32");
  }
  RETURN_IF_ERROR(AtLeast("threads", o.threads, 1));
  RETURN_IF_ERROR(AtLeast("max_tokens_per_micro_batch", o.max_tokens_per_micro_batch, 2));
  RETURN_IF_ERROR(AtLeast("keep_checkpoints", o.keep_checkpoints, 1));
  RETURN_IF_ERROR(AtLeast("keep_versions", o.keep_versions, 2));
  RETURN_IF_ERROR(Under("loss", Validate(o.loss)));
  RETURN_IF_ERROR(Under("optimizer", Validate(o.optimizer)));
  return Under("schedule", Validate(o.schedule));
}

}  // namespace palimpsest::trainer
