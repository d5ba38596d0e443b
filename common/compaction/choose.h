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

// A stretch of a window that one block covers: so many source positions, by so many slots.
struct Stretch {
  int64_t positions = 0;
  int32_t slots = 0;
  bool operator==(const Stretch&) const = default;
};

// Shares of t slots among the stretches, in proportion to their positions: t * positions / all of
// them. Who has not so many slots keeps all it has, and the others share the rest likewise; what
// remains after rounding down goes to the largest remainders, ties to the earlier stretch. 0 <= t
// <= the sum of slots.
std::vector<int32_t> ShareByPositions(std::span<const Stretch> stretches, int32_t t);

// The largest of each stretch, by such shares. importance [w], in the order of the stretches.
std::vector<int32_t> LargestByShare(std::span<const double> importance,
                                    std::span<const Stretch> stretches, int t);

// Of what makes a slot worth keeping, the part that likeness to others cannot take away.
inline constexpr double kOwnPart = 0.1;

// t slots, each the one that adds most to log det K of those that are picked, ties to the lower
// index; K_ij = I_i I_j ((1 - r) cos(k_i, k_j) + r [i = j]), r = kOwnPart, cos 0 of a key of length
// 0. Greedy maximisation of a determinantal point process: Chen, Zhang and Zhou 2018
// (arXiv:1709.05135), algorithm 1. What slot j adds is the logarithm of I_j^2 (r + (1 - r) u_j'
// A^-1 u_j) with u = k / |k| and A = 1 + (1 - r)/r sum_picked u u', of which A^-1 [d, d] is kept by
// rank-one updates: O(w t d). importance [w] >= 0, keys [w, d].
std::vector<int32_t> DiverseSlots(std::span<const double> importance, std::span<const double> keys,
                                  int d, int t);

}  // namespace palimpsest::compaction
