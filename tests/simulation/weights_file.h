#pragma once

namespace palimpsest::simulation {

// Of a version: the ids of the batches in it.
inline constexpr char kWeightsFile[] = "weights.txt";

}  // namespace palimpsest::simulation
