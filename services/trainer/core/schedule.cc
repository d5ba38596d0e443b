#include "services/trainer/core/schedule.h"

#include <cmath>
#include <numbers>

#include "absl/strings/str_format.h"

namespace palimpsest::trainer {

absl::Status Validate(const Schedule& s) {
  if (!(s.learning_rate > 0 && s.learning_rate <= kMaxLearningRate)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("learning_rate=%g is not in (0, %g]", s.learning_rate, kMaxLearningRate));
  }
  if (!(s.final_learning_rate >= 0 && s.final_learning_rate <= kMaxLearningRate)) {
    return absl::InvalidArgumentError(absl::StrFormat("final_learning_rate=%g is not in [0, %g]",
                                                      s.final_learning_rate, kMaxLearningRate));
  }
  if (s.warmup_steps < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("warmup_steps=%d is not >= 0", s.warmup_steps));
  }
  if (s.decay_steps != 0 && s.decay_steps <= s.warmup_steps) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "decay_steps=%d is neither 0 nor past warmup_steps=%d", s.decay_steps, s.warmup_steps));
  }
  if (s.decay == Decay::kCosine && s.decay_steps == 0) {
    return absl::InvalidArgumentError("decay=cosine with decay_steps=0 has no effect");
  }
  return absl::OkStatus();
}

double LearningRate(const Schedule& s, int64_t step) {
  if (step <= s.warmup_steps) {
    return s.learning_rate * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  }
  if (s.decay_steps == 0) return s.learning_rate;
  if (step >= s.decay_steps) return s.final_learning_rate;
  double part = static_cast<double>(step - s.warmup_steps) /
                static_cast<double>(s.decay_steps - s.warmup_steps);
  if (s.decay == Decay::kCosine) part = (1 - std::cos(std::numbers::pi * part)) / 2;
  return s.learning_rate + part * (s.final_learning_rate - s.learning_rate);
}

}  // namespace palimpsest::trainer
