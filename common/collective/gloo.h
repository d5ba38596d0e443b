#pragma once

#include <memory>
#include <string>

#include "common/collective/join.h"

namespace palimpsest {

// By c10d's Gloo, in clear text. `life`: the folder of this life of the ranks, who are all there.
// UNAVAILABLE: they cannot connect.
absl::StatusOr<std::unique_ptr<Collective>> ConnectGloo(const JoinOptions& options,
                                                        const std::string& life, Clock& clock);

}  // namespace palimpsest
