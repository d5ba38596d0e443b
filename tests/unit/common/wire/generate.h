#pragma once

#include "common/base/random.h"
#include "common/context/policy.h"
#include "common/rl/rollout.h"
#include "common/rl/sampling.h"

// Random legal values: legal to the wire, not to a model.
namespace palimpsest::wire {

context::Event RandomEvent(RandomStream& stream, context::Shape shape, int32_t at);
context::ContextPolicy RandomPolicy(RandomStream& stream);
rl::Rollout RandomRollout(RandomStream& stream);
rl::SamplingParams RandomSampling(RandomStream& stream);
rl::BudgetMessages RandomBudgetMessages(RandomStream& stream);

}  // namespace palimpsest::wire
