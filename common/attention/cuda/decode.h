#pragma once

#include <cstdint>

#include "common/attention/paged_kernel.h"
#include "common/cuda/launch.h"

// Attention of single rows over a paged cache on a GPU: what a decode step does. Letters: R rows,
// H query heads, Hk KV heads, g = H / Hk, d head width. All pointers lead to device memory; rows of
// q, k, v and o begin at multiples of 16 bytes.
namespace palimpsest::attention {

// Keys that one block of threads sums up. Longer rows are split; their parts are merged in order.
// Neither depends on the other rows: a row's result has the same bits in every batch.
inline constexpr int kDecodeSlotsPerPart = 256;

template <class Stored>  // float or BFloat16
struct DecodeBatch {
  PagedCache<Stored> cache;         // one layer's
  const Stored* q = nullptr;        // [R, H, d]
  Stored* o = nullptr;              // [R, H, d]
  const int32_t* tables = nullptr;  // [R, table_pages] pages of each row's slots
  const int32_t* slots = nullptr;   // [R, Hk] slots that a row sees; 0: its output is 0
  float* scratch = nullptr;         // DecodeScratch floats
  int rows = 0, heads = 0, table_pages = 0;
  int max_slots = 0;  // >= every entry of slots; part of a captured graph, which slots are not
  float scale = 1;
};

constexpr int DecodeParts(int slots) {
  return (slots + kDecodeSlotsPerPart - 1) / kDecodeSlotsPerPart;
}
constexpr int64_t DecodeScratch(int rows, int heads, int d, int max_slots) {
  return int64_t{DecodeParts(max_slots)} * rows * heads * (d + 2);
}

// o = softmax over a row's slots of (scale q k' + bias), times v; sums in fp32. d is 64 or 128.
template <class Stored>
cuda::Launched Decode(const DecodeBatch<Stored>& batch, cuda::Stream stream);

}  // namespace palimpsest::attention
