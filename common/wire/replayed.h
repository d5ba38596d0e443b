#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/rl/replayed.h"
#include "palimpsest/v1/trainer.pb.h"

// What a trainer replayed: message <-> value. Rules as in context.h.
namespace palimpsest::wire {

// Of rollouts of one batch. `sampled`: how many tokens of each were sampled, by its id. Refused: an
// id that is none of these or comes twice, and another number of log-probabilities.
absl::StatusOr<std::vector<rl::Replayed>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::ReplayedRollout>& protos,
    const std::map<std::string, int64_t>& sampled, std::string_view path = "replayed");
v1::ReplayedRollout ToProto(const rl::Replayed& replayed);

}  // namespace palimpsest::wire
