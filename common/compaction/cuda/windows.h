#pragma once

#include "common/base/bfloat16.h"
#include "common/compaction/cuda/head_facts.h"
#include "common/cuda/launch.h"

// Scores, choice and products of a batch of events on a GPU (design section 4, letters as in
// head_facts.h). Every sum has one order: a problem's numbers do not depend on its neighbours. All
// pointers lead to device memory, rows of keys, values and queries to multiples of 16 bytes.
namespace palimpsest::compaction {

// Where one head's window and reference queries stand.
template <class Stored>
struct WindowHead {
  const Stored* k = nullptr;  // of the pool's first row, this KV head
  const Stored* v = nullptr;
  const float* bias = nullptr;
  const int32_t* table = nullptr;  // pages of the sequence
  int32_t first = 0;               // the window's first slot in the table
  const Stored* q = nullptr;  // of the first reference position, this KV head's first query head
};

template <class Stored>
struct DeviceWindows {
  const WindowHead<Stored>* windows = nullptr;   // [B]
  const HeadFacts* heads = nullptr;              // [B]
  int problems = 0, w = 0, n = 0, t = 0, d = 0;  // d a multiple of 16
  int page_slots = 16;
  int64_t slot_stride = 0;      // of k and v, in elements, from row to row of the pool
  int64_t bias_stride = 0;      // of bias
  int group = 1;                // query i is head i % group of reference position i / group
  int64_t position_stride = 0;  // of q, in elements, from position to position
  float scale = 1;
};

// scores [B, n, w] = scale q k' + bias; queries and slots that are not there are left as they are.
template <class Stored>
cuda::Launched Score(const DeviceWindows<Stored>& batch, float* scores, cuda::Stream stream);

// Row maxima r and sums m of e^(S - r) of the scores: stats [B, n, 2]. So a = e^(S - r) / m.
template <class Stored>
cuda::Launched Normalise(const DeviceWindows<Stored>& batch, const float* scores, float* stats,
                         cuda::Stream stream);

// kept [B, t]: the `keep` slots with the largest sqrt(mean_i a_ij^2), ties to the lower, ascending;
// -1 behind them. importance [B, w] is what they were ranked by.
template <class Stored>
cuda::Launched Choose(const DeviceWindows<Stored>& batch, const float* scores, const float* stats,
                      float* importance, int32_t* kept, cuda::Stream stream);

// Of the kept slots: scores and a, [B, n, t] each, values [B, t, d]; a is 0 where there is no query
// or slot.
struct KeptSlots {
  const int32_t* index = nullptr;  // [B, t]
  float* scores = nullptr;
  float* a = nullptr;
  float* values = nullptr;
};
template <class Stored>
cuda::Launched Gather(const DeviceWindows<Stored>& batch, const float* scores, const float* stats,
                      const KeptSlots& kept, cuda::Stream stream);

// y [B, n, d] = A V over the whole window; 0 where there is no query.
template <class Stored>
cuda::Launched Outputs(const DeviceWindows<Stored>& batch, const float* scores, const float* stats,
                       float* y, cuda::Stream stream);

}  // namespace palimpsest::compaction
