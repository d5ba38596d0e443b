#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "common/rl/advantages.h"

namespace palimpsest::rl {

// As configurations, and the settings that a ledger holds, name them.
inline constexpr std::array<std::pair<std::string_view, AdvantageKind>, 4> kAdvantageKinds = {
    {{"group_std", AdvantageKind::kGroupStd},
     {"group_mean", AdvantageKind::kGroupMean},
     {"leave_one_out", AdvantageKind::kLeaveOneOut},
     {"length_weighted", AdvantageKind::kLengthWeighted}}};

}  // namespace palimpsest::rl
