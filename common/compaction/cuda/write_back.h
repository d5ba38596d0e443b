#pragma once

#include "common/base/bfloat16.h"
#include "common/compaction/cuda/head_facts.h"
#include "common/cuda/launch.h"

// What an event leaves goes into the paged cache, on a GPU. All pointers lead to device memory.
namespace palimpsest::compaction {

// Where one head's slots stand, to be rewritten.
template <class Stored>
struct SlotsHead {
  Stored* k = nullptr;  // of the pool's first row, this KV head
  Stored* v = nullptr;
  float* bias = nullptr;
  const int32_t* table = nullptr;  // pages of the sequence, which are its own
  int32_t first = 0;               // the window's first slot in the table
  int32_t slots = 0;               // of this head before the event, behind the window too
};

template <class Stored>
struct WriteBackBatch {
  const SlotsHead<Stored>* targets = nullptr;  // [B]
  const HeadFacts* heads = nullptr;            // [B]
  const int32_t* kept = nullptr;               // [B, t] as MatchEvents gives them
  const float* bias = nullptr;                 // [B, t]; nullptr: biases and values go along
  const Stored* values = nullptr;              // [B, t, d] likewise
  int problems = 0, t = 0, d = 0;              // d at most 256
  int page_slots = 16;
  int64_t slot_stride = 0;  // of k and v, in elements
  int64_t bias_stride = 0;
};

// Slot first + i becomes kept key i with its new bias and value; what stood behind the window
// follows. Afterwards a head has slots - width + keep slots.
template <class Stored>
cuda::Launched WriteBack(const WriteBackBatch<Stored>& batch, cuda::Stream stream);

}  // namespace palimpsest::compaction
