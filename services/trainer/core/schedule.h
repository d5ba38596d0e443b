#pragma once

#include <cstdint>

#include "common/base/status.h"

namespace palimpsest::trainer {

// kLinear: in a line. kCosine: half a wave, flat at both ends (Loshchilov and Hutter, 2017).
enum class Decay : uint8_t { kLinear, kCosine };

// The trainer's own learning rate, for batches that bring none.
struct Schedule {
  double learning_rate = 4e-4;        // after the warm-up
  int64_t warmup_steps = 5;           // linear from 0
  double final_learning_rate = 4e-4;  // reached at decay_steps
  int64_t decay_steps = 0;            // 0: constant
  Decay decay = Decay::kLinear;       // between the two
  bool operator==(const Schedule&) const = default;
};
inline constexpr double kMaxLearningRate = 1000;  // far above any use, far below an overflow
absl::Status Validate(const Schedule& schedule);

// Of `step`, the first of which is 1.
double LearningRate(const Schedule& schedule, int64_t step);

}  // namespace palimpsest::trainer
