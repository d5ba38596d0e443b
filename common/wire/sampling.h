#pragma once

#include <string_view>

#include "common/rl/sampling.h"
#include "palimpsest/v1/inference.pb.h"

// What a request asks: message <-> value. Rules as in context.h.
namespace palimpsest::wire {

absl::StatusOr<rl::SamplingParams> FromProto(const v1::SamplingParams& proto,
                                             std::string_view path = "sampling");
v1::SamplingParams ToProto(const rl::SamplingParams& params);

absl::StatusOr<rl::BudgetMessages> FromProto(const v1::BudgetMessages& proto,
                                             std::string_view path = "budget_messages");
v1::BudgetMessages ToProto(const rl::BudgetMessages& messages);

}  // namespace palimpsest::wire
