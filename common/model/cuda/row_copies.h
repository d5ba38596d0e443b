#pragma once

#include <cstdint>

#include "common/base/bfloat16.h"
#include "common/cuda/launch.h"

// Rows that move on a GPU, and a bias that is added to them. All pointers lead to device memory and
// to multiples of 16 bytes. Letters: R rows, n width (a multiple of 8).
namespace palimpsest::model {

// out row i = row index[i] of `from`: embeddings of ids, or the rows whose logits are asked for.
template <class Stored>
cuda::Launched TakeRows(const Stored* from, const int32_t* index, int rows, int n, Stored* out,
                        cuda::Stream stream);

// Row i of `from` [R, n] goes to to[i] + layer * stride[i]; to[i] = nullptr: nowhere.
template <class Stored>
struct ScatteredRows {
  const Stored* from = nullptr;
  Stored* const* to = nullptr;      // [R]
  const int64_t* stride = nullptr;  // [R] elements
  int rows = 0, n = 0, layer = 0;
};
template <class Stored>
cuda::Launched ScatterRows(const ScatteredRows<Stored>& rows, cuda::Stream stream);

// y [R, n] += bias [n], rounded to Stored.
template <class Stored>
cuda::Launched AddBias(const Stored* bias, int rows, int n, Stored* y, cuda::Stream stream);

}  // namespace palimpsest::model
