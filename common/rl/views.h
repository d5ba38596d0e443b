#pragma once

#include <cstdint>

#include "common/base/status.h"
#include "common/rl/view_report.h"

// One rollout can be looked at twice with the same weights: its `shadow` is what its log says that
// each row saw, events included; its `dense` view is every token before the row. A rollout was
// sampled from its shadow, so a policy gradient of the shadow needs no weight, one of the dense
// view does.
namespace palimpsest::rl {

enum class View : uint8_t { kShadow, kDense };
constexpr View Other(View view) { return view == View::kShadow ? View::kDense : View::kShadow; }

// Draws the views of each loss token together. With p of the dense view, q of the shadow, both over
// the whole vocabulary at the rollout's temperature, and sg what is held constant, the loss gains
// coefficient w D(p, q) per token of weight w:
//   d1  KL(p || sg q)   dense follows   gradient p (log p/q - KL) of its logits, unbounded
//   d2  KL(sg p || q)   shadow follows  q - p
//   d3  KL(sg q || p)   dense follows   p - q
// 0 and without gradient before a rollout's first event, where the views are one.
enum class Distillation : uint8_t { kNone, kD1, kD2, kD3 };

// The view that a distillation moves; of kNone neither.
constexpr bool Moves(Distillation kind, View view) {
  if (kind == Distillation::kNone) return false;
  return (kind == Distillation::kD2) == (view == View::kShadow);
}

struct DistillationOptions {
  Distillation kind = Distillation::kNone;
  double coefficient = 0.1;   // >= 0
  int32_t warmup_steps = 20;  // of rollouts, until the coefficient is whole; [0, 256]
  bool operator==(const DistillationOptions&) const = default;
};

// At the n-th step of rollouts, n >= 1: rises linearly and is whole at warmup_steps.
double CoefficientAt(const DistillationOptions& options, int64_t n);

struct ViewOptions {
  View learner = View::kShadow;  // what the objective is of
  DistillationOptions distillation = {};
  int32_t measure_every = 0;  // steps between comparisons of the views, >= 0; 0: never. Where one
                              // is distilled they are compared at every step
  int32_t bin = 2048;         // tokens of a response, >= 1; reports are split by it
  ViewGates gates = {};
  bool operator==(const ViewOptions&) const = default;
};
// Refuses what is out of range and what would have no effect.
absl::Status Validate(const ViewOptions& options);

}  // namespace palimpsest::rl
