#pragma once

#include "common/context/policy.h"
#include "common/model/config.h"
#include "tests/bench/workload.h"

// Operations (multiply-adds) that a training step cannot do without: no kernel, no padding and no
// copy enters.
namespace palimpsest::bench {

// Of a forward pass: linear layers by rows, attention by visible (query, key) pairs, the head by
// the rows that a loss looks at.
double StepCost(const model::ModelConfig& model, double rows, double pairs, double loss_rows);

// Of a whole step: forward, backward, and AdamW over all parameters, whatever the batch.
double TrainCost(const model::ModelConfig& model, double rows, double pairs, double loss_rows);

// What a step with events takes at least over the same tokens without, prompts shared.
struct EventCost {
  double detached = 1;  // events are solved once
  double full = 1;      // and differentiated, for which they are made again
};
// `rollouts` were written under attention_matching and `budget`, whole groups in a row.
EventCost CostOf(const Rollouts& rollouts, const context::KvBudget& budget,
                 const model::ModelConfig& model);

}  // namespace palimpsest::bench
