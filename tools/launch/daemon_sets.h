#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/launch/placement.h"

namespace palimpsest::tools {

// The role whose end is the end of the run.
inline constexpr std::string_view kLeader = "orchestrator";

// What launch itself says to daemon `rank` of one of kRoles, as a.b=c, before the user's own --set.
// `node`: the name of the one that it runs on; null on one machine.
std::vector<std::string> SetsOf(std::string_view role, int rank, const PlacementSection& place,
                                const std::string* node);

}  // namespace palimpsest::tools
