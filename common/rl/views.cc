#include "common/rl/views.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

constexpr int32_t kMaxWarmup = 256;

absl::Status Validate(const DistillationOptions& o) {
  constexpr DistillationOptions kDefaults;
  if (!(o.coefficient >= 0 && std::isfinite(o.coefficient))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("distillation.coefficient=%g is not >= 0", o.coefficient));
  }
  if (o.warmup_steps < 0 || o.warmup_steps > kMaxWarmup) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "distillation.warmup_steps=%d is not in [0, %d]", o.warmup_steps, kMaxWarmup));
  }
  if (o.kind == Distillation::kNone && o != kDefaults) {
    return absl::InvalidArgumentError(
        absl::StrFormat("distillation.coefficient=%g, warmup_steps=%d with distillation.kind=none "
                        "have no effect",
                        o.coefficient, o.warmup_steps));
  }
  if (o.kind != Distillation::kNone && o.coefficient == 0) {
    return absl::InvalidArgumentError(
        "distillation.coefficient=0 with a distillation.kind pays for what has no effect; "
        "measure_every compares the views");
  }
  return absl::OkStatus();
}

}  // namespace

double CoefficientAt(const DistillationOptions& options, int64_t n) {
  if (n >= options.warmup_steps) return options.coefficient;
  return options.coefficient * static_cast<double>(n) / options.warmup_steps;
}

absl::Status Validate(const ViewOptions& o) {
  constexpr ViewOptions kDefaults;
  RETURN_IF_ERROR(Validate(o.distillation));
  RETURN_IF_ERROR(Validate(o.gates));
  if (o.measure_every < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("measure_every=%d is not >= 0", o.measure_every));
  }
  if (o.bin < 1) return absl::InvalidArgumentError(absl::StrFormat("bin=%d is not >= 1", o.bin));
  const bool distils = o.distillation.kind != Distillation::kNone;
  if (distils && o.measure_every > 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("measure_every=%d with a distillation.kind has no effect: the views are "
                        "compared at every step",
                        o.measure_every));
  }
  const bool measured = distils || o.measure_every > 0;
  if (!measured && o.gates != kDefaults.gates) {
    return absl::InvalidArgumentError(
        "gates without measure_every or distillation.kind have no effect: nothing is measured");
  }
  if (!measured && o.bin != kDefaults.bin) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "bin=%d without measure_every or distillation.kind has no effect: nothing is measured",
        o.bin));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::rl
