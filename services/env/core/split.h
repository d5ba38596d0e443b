#pragma once

#include <cstdint>
#include <string_view>

#include "common/base/random.h"

namespace palimpsest::env {

// Who may see a problem. Values travel in ledgers: never renumber.
enum class Split : uint8_t { kTrain = 1, kSft = 2, kHeldout = 3 };

inline constexpr Split kSplits[] = {Split::kTrain, Split::kSft, Split::kHeldout};

// "train", "sft", "heldout"; "unknown" for a number that is no split.
std::string_view SplitName(Split split);

// The one split that owns a problem: a hash of its content, so that no seed, index or task option
// can move a problem into another split. Of 8 classes train owns 4, sft 3, heldout 1.
Split SplitOf(std::string_view content);

// A bound on redraws until a problem falls into the asked split. One draw fits with p >= 1/8, so
// all of them miss with p < 1e-57.
inline constexpr int kMaxSplitDraws = 1000;

// Draws of one episode: a pure function of what they are for.
RandomStream EpisodeStream(std::string_view task, std::string_view purpose, Split split,
                           uint64_t seed, int64_t index);

}  // namespace palimpsest::env
