#pragma once

#include <cstdint>

#include "common/attention/segment_kernel.h"

// Attention of single rows over a paged cache, every slot with its bias: what a decode step does.
// No torch. Letters: H query heads, Hk KV heads, g = H / Hk, d head width, N slots of the pool.
namespace palimpsest::attention {

// Slot i of a KV head stands in row table[i / kSlotsPerPage] * kSlotsPerPage + i % kSlotsPerPage of
// the pool.
inline constexpr int kSlotsPerPage = 16;

// Keys that are summed up in one go. The parts of a longer row are merged in their order, so that
// they can be computed side by side: what a row's sums look like depends on its own slots only.
inline constexpr int kSlotsPerPart = 512;

template <class Stored>
struct PagedCache {
  const Stored* k = nullptr;  // [N, Hk, d]
  const Stored* v = nullptr;
  const float* bias = nullptr;  // [N, Hk]
  int kv_heads = 0, d = 0;
};

// The slots that one row sees under one KV head: the first `slots` of the block table.
struct PagedKeys {
  const int32_t* table = nullptr;
  int slots = 0;  // >= 1
};

inline int PartsOf(int slots) { return (slots + kSlotsPerPart - 1) / kSlotsPerPart; }

// Floats of scratch for the parts of one row under one KV head: per query head an unnormalised
// output [d], its maximum and its sum.
inline int ScratchOf(int parts, int group, int d) { return parts * group * (d + 2); }

// Part `part` of a row: q [g, d] are the query heads of KV head `h`, `scratch` its
// ScratchOf(1, g, d) floats. Scores are scale * q k + bias, sums in fp32, in the order of slots.
// bf16 goes through the processor's own instructions where it has them (native_kernel.h).
template <class Stored>
void AttendPart(const PagedCache<Stored>& cache, const PagedKeys& keys, int h, const Stored* q,
                int group, float scale, int part, float* scratch);
// The same by what every processor has.
template <class Stored>
void AttendPartByLanes(const PagedCache<Stored>& cache, const PagedKeys& keys, int h,
                       const Stored* q, int group, float scale, int part, float* scratch);

// o [g, d] of a row from its parts, merged in order.
template <class Stored>
void MergeParts(const float* scratch, int parts, int group, int d, Stored* o);

}  // namespace palimpsest::attention
