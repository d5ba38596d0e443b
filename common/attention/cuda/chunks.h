#pragma once

#include <cstdint>

#include "common/base/bfloat16.h"
#include "common/cuda/launch.h"

// What prompt chunks need around ForwardGroup: lists of the slots that they see, and sums that
// begin as fp32 and end as the cache's type. All pointers lead to device memory. Letters: S chunks,
// Hk KV heads, H query heads, R rows, d head width.
namespace palimpsest::attention {

// out [S, Hk, keys]: pool rows of slots [first, first + count) of each head, -1 behind them.
struct SlotLists {
  const int32_t* tables = nullptr;  // [S, table_pages]
  const int32_t* first = nullptr;   // [S, Hk]; nullptr: 0
  const int32_t* count = nullptr;   // [S, Hk]
  int64_t* out = nullptr;
  int chunks = 0, kv_heads = 0, keys = 0, table_pages = 0;
};
cuda::Launched ListSlots(const SlotLists& lists, cuda::Stream stream);

// o [R, H, d] = 0 and lse [R, H] = -inf: what ForwardGroup merges into.
cuda::Launched BeginRows(float* o, float* lse, int rows, int heads, int d, cuda::Stream stream);

// out [count] = o, rounded to Stored.
template <class Stored>
cuda::Launched RoundRows(const float* o, int64_t count, Stored* out, cuda::Stream stream);

}  // namespace palimpsest::attention
