#pragma once

#include <cstdint>

#include "common/base/bfloat16.h"
#include "common/cuda/launch.h"

// What stands between the products of a decode step, fused, on a GPU: the twins of
// common/model/row_kernels.h, which round where these round. Stored is float or BFloat16;
// arithmetic is fp32. A row's results depend on this row only. All pointers lead to device memory
// and to multiples of 16 bytes. Letters: R rows, n width, H query heads, Hk KV heads, d head width,
// N slots of the pool, V vocabulary.
namespace palimpsest::model {

// x += add, rounded to Stored; out = x / sqrt(mean(x^2) + eps) * weight.
template <class Stored>
struct NormRows {
  Stored* x = nullptr;             // [R, n]
  const Stored* add = nullptr;     // [R, n]; nullptr: x stays as it is
  const Stored* weight = nullptr;  // [n]
  Stored* out = nullptr;           // [R, n]
  int rows = 0, n = 0;             // n a multiple of 8, at most 32768
  float eps = 0;
};
template <class Stored>
cuda::Launched AddAndNorm(const NormRows<Stored>& rows, cuda::Stream stream);

// The heads of one layer's rows: q and k normalised (where there are weights for it) and rotated by
// their positions; q goes to `q`, k and v with bias 0 into the slots of the pool.
template <class Stored>
struct HeadRows {
  const Stored* qkv = nullptr;                   // [R, H + 2 Hk, d]
  const Stored* q_norm = nullptr;                // [d] or nullptr
  const Stored* k_norm = nullptr;                // [d] or nullptr
  const int32_t* positions = nullptr;            // [R]
  const float* frequencies = nullptr;            // [d / 2] radians per position
  const int64_t* slots = nullptr;                // [R, Hk] rows of the pool; -1: k and v go nowhere
  Stored* q = nullptr;                           // [R, H, d]
  Stored* k_pool = nullptr;                      // [N, Hk, d]
  Stored* v_pool = nullptr;                      // [N, Hk, d]
  float* bias_pool = nullptr;                    // [N, Hk]
  int rows = 0, heads = 0, kv_heads = 0, d = 0;  // d 64 or 128
  float eps = 0;
};
template <class Stored>
cuda::Launched RotateAndCache(const HeadRows<Stored>& rows, cuda::Stream stream);

// out [R, n] = silu(gate) * up of gate_up [R, 2n]: each row's gate before its up. n a multiple
// of 8.
template <class Stored>
cuda::Launched Gate(const Stored* gate_up, int rows, int n, Stored* out, cuda::Stream stream);

// log softmax(logits / temperature) at each row's target, in nats.
struct TokenRows {
  const float* logits = nullptr;     // [R, V]
  const int32_t* targets = nullptr;  // [R]; -1: the row's answer is 0
  float* logprobs = nullptr;         // [R]
  int rows = 0, vocabulary = 0;
  float temperature = 1;  // > 0
};
cuda::Launched TokenLogProbs(const TokenRows& rows, cuda::Stream stream);

}  // namespace palimpsest::model
