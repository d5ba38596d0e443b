#pragma once

#include <span>
#include <vector>

#include "common/rl/objective.h"
#include "services/trainer/core/batch.h"
#include "services/trainer/engine/replay_pass.h"

// From tokens that were replayed to the loss of a batch and its derivative; the equations stand in
// common/rl/objective.h.
namespace palimpsest::trainer {

// Token weights of a whole batch, from the weights of its items that the tokens have until then.
void WeighTokens(const rl::AggregationOptions& aggregation, std::vector<LossSequence>& sequences);

// Demonstrations: -sum w n, maximum likelihood.
LossValue Likelihood(const PassTokens& pass);

// Rollouts. reference: log-probabilities of the same tokens under the reference; empty without one.
// Adds to `sums`.
LossValue PolicyLoss(const rl::ObjectiveOptions& options, const PassTokens& pass,
                     std::span<const double> reference, rl::ObjectiveSums& sums);

RatioStats StatsOf(const rl::ObjectiveSums& sums);

}  // namespace palimpsest::trainer
