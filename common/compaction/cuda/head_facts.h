#pragma once

#include <cstdint>

namespace palimpsest::compaction {

// One problem of a batch: one KV head of one layer of one event. Letters of this folder: B problems
// padded to w window slots, n queries and t kept slots; d head width. In device memory.
struct HeadFacts {
  int32_t width = 0;                     // slots of the window, <= w
  int32_t keep = 0;                      // slots that stay, <= t and <= width
  int32_t queries = 0;                   // reference queries, <= n
  double mu = 1e-2, lambda = 1e-2;       // as context::Parameters
  double log_lower = -7, log_upper = 7;  // of log w_j
};

}  // namespace palimpsest::compaction
