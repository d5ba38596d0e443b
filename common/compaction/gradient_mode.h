#pragma once

namespace palimpsest::compaction {

// What of a compact block carries gradient in replay; forced positions, ranges and box activity are
// held fixed in all.
enum class GradientMode {
  kFull,  // total derivative: window K, V and old bias (dropped slots too), queries, mu and lambda
          // through traces
  kStraightThrough,  // bias and weights constant, dV' goes to V_kept, keys as attended keys
  kDetached,         // keys, bias and values of the block are constants
};

}  // namespace palimpsest::compaction
