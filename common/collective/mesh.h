#pragma once

#include <memory>
#include <string>

#include "common/collective/join.h"

namespace palimpsest {

// A connection between each two ranks (link.h), under the certificates of options.tls: what Gloo
// does in clear text. `life`: the folder of this life of the ranks, who are all there. UNAVAILABLE:
// they cannot connect; INVALID_ARGUMENT: as ReadIdentity.
//
// In every call each rank meets the others one after the other: in turn t ranks r and t - r (mod
// size). Of a pair the lower rank speaks first, so nobody waits for one who waits for him. A sum is
// taken by the rank that owns the part, in the order of these turns.
absl::StatusOr<std::unique_ptr<Collective>> ConnectMesh(const JoinOptions& options,
                                                        const std::string& life, Clock& clock);

}  // namespace palimpsest
