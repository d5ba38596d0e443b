#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palimpsest::compaction {

// Which slots of one head's window survive. Every function returns `t` indices into the window,
// ascending.

// The t largest, ties to the lower index. importance [w], 0 <= t <= w.
std::vector<int32_t> LargestByImportance(std::span<const float> importance, int t);
std::vector<int32_t> LargestByImportance(std::span<const double> importance, int t);

// The last t.
std::vector<int32_t> MostRecent(int w, int t);

// t without replacement, keyed by meaning: the draw of slot j is that of (seed, layer, head, its
// source position).
std::vector<int32_t> RandomSlots(std::span<const int32_t> positions, int t, uint64_t seed,
                                 int layer, int head);

// Orthogonal matching pursuit of the mass target: picks, one after another, the slot whose column
// of a_ij best explains what the picked ones leave of the all-ones target. gram [w, w] = A'A, rhs
// [w] = A'1, both fp64.
std::vector<int32_t> MatchingPursuit(std::span<const double> gram, std::span<const double> rhs,
                                     int w, int t);

}  // namespace palimpsest::compaction
