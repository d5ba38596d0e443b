#pragma once

#include <span>
#include <vector>

#include "common/base/clock.h"
#include "common/collective/collective.h"
#include "services/trainer/engine/mismatch.h"
#include "services/trainer/engine/options.h"
#include "services/trainer/engine/replay_pass.h"
#include "services/trainer/engine/replayed_tokens.h"
#include "services/trainer/engine/sequences.h"

namespace palimpsest::trainer {

// What a batch leaves beside its gradients.
struct Accumulated {
  PassSums pass;
  std::vector<rl::ViewGap> gaps;
  rl::ObjectiveSums objective;
  double reference_seconds = 0;
  Mismatch mismatch;
  ReplayedTokens replayed;
};

// How micro-batches are learnt from. What it refers to outlives it.
struct Learning {
  const EngineOptions& options;
  const model::Decoder& decoder;    // whose parameters get the gradients
  const model::Decoder* reference;  // or null
  bool rollouts;                    // under options.loss; else demonstrations
  PassViews views;
  bool cut_prompts_once;  // a group in several micro-batches: its prompt once, or with each piece
};

// Adds to the gradients of the parameters and to `sums`. What its passes return, or throw.
absl::Status Accumulate(const Learning& learning, std::span<const MicroBatch> micro_batches,
                        Clock& clock, Accumulated& sums);

// From what each rank has to what all have together: in the order of the ranks, so that all of them
// get the same bits. Collective.
absl::Status AddUp(Collective& ranks, Accumulated& sums);

}  // namespace palimpsest::trainer
