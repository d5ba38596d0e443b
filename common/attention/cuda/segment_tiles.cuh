#pragma once

#include <cmath>

#include "common/attention/cuda/segments.h"
#include "common/cuda/device.cuh"

// Tiles of one segment under one KV head in shared memory, and their products. A block of threads
// has 16 x 16 threads; a thread holds the rows y + 16 i and the columns x + 16 j of a product, so
// that neighbours meet neighbouring banks.
namespace palimpsest::attention {

inline constexpr int kTileThreads = 256;
inline constexpr int kSide = 16;
inline constexpr int kTile = 64;  // query vectors, and keys, of a tile
inline constexpr int kEach = kTile / kSide;
inline constexpr int kScorePitch = kTile + 1;
template <int kD>
inline constexpr int kPitch = kD + 1;  // floats from row to row

// Query vectors of a segment are its rows times the g query heads of the KV head, rows first.
template <class Stored>
struct SegmentView {
  KernelOperands<Stored, float> x;
  DeviceGroup group;
  int64_t segment;
  int h, per_head;

  __device__ SegmentView(const KernelOperands<Stored, float>& operands, const DeviceGroup& g,
                         int64_t s, int head)
      : x(operands), group(g), segment(s), h(head), per_head(operands.heads / operands.kv_heads) {}

  __device__ int vectors() const { return group.queries * per_head; }
  // Place of vector `i` among [T, H]; -1: there is none.
  __device__ int64_t Vector(int i) const {
    if (i >= vectors()) return -1;
    const int64_t row = group.query_rows[segment * group.queries + i / per_head];
    return row < 0 ? -1 : row * x.heads + h * per_head + i % per_head;
  }
  __device__ int64_t Entry(int j) const { return (segment * group.kv_heads + h) * group.keys + j; }
  // Slot of key `j`; -1: there is none.
  __device__ int64_t Slot(int j) const { return j < group.keys ? group.key_slots[Entry(j)] : -1; }
  // Place of a slot among [N, Hk] or, behind them, [C, Hk].
  __device__ int64_t Place(int64_t slot) const {
    return (slot < x.raw_slots ? slot : slot - x.raw_slots) * x.kv_heads + h;
  }
  __device__ bool Sees(int i, int j) const {
    return !group.causal_offset || j <= i / per_head + group.causal_offset[segment];
  }
};

// to [kTile][kPitch] = vectors of [.., kD] arrays, a warp per vector; at(r) is where vector r
// begins, nullptr: zeros.
template <int kD, class Element, class At>
__device__ void StageRows(const At& at, float* to) {
  for (int r = threadIdx.x / cuda::kWarp; r < kTile; r += kTileThreads / cuda::kWarp) {
    const Element* from = at(r);
    for (int c = threadIdx.x % cuda::kWarp; c < kD; c += cuda::kWarp)
      to[r * kPitch<kD> + c] = from ? cuda::Wide(from[c]) : 0.0f;
  }
}
template <int kD, class Stored>
__device__ void StageQueries(const SegmentView<Stored>& view, int first, float* to) {
  StageRows<kD, Stored>(
      [&](int r) -> const Stored* {
        const int64_t at = view.Vector(first + r);
        return at < 0 ? nullptr : view.x.q + at * kD;
      },
      to);
}
template <int kD, class Stored>
__device__ void StageOutputGradients(const SegmentView<Stored>& view, const float* d_o, int first,
                                     float* to) {
  StageRows<kD, float>(
      [&](int r) -> const float* {
        const int64_t at = view.Vector(first + r);
        return at < 0 ? nullptr : d_o + at * kD;
      },
      to);
}
template <int kD, class Stored>
__device__ void StageKeys(const SegmentView<Stored>& view, bool values, int first, float* to) {
  StageRows<kD, Stored>(
      [&](int r) -> const Stored* {
        const int64_t slot = view.Slot(first + r);
        if (slot < 0) return nullptr;
        const bool raw = slot < view.x.raw_slots;
        const Stored* array =
            values ? (raw ? view.x.v : view.x.v_compact) : (raw ? view.x.k : view.x.k_compact);
        return array + view.Place(slot) * kD;
      },
      to);
}

__device__ inline int TileY() { return threadIdx.x / kSide; }
__device__ inline int TileX() { return threadIdx.x % kSide; }

// sums[i][j] += over k of left[row * kLeftRow + k * kLeftK] right[column * kRightColumn + k *
// kRightK].
template <int kDepth, int kLeftRow, int kLeftK, int kRightColumn, int kRightK, int kRows,
          int kColumns>
__device__ void Multiply(const float* left, const float* right, float (&sums)[kRows][kColumns]) {
  left += TileY() * kLeftRow;
  right += TileX() * kRightColumn;
#pragma unroll 4
  for (int k = 0; k < kDepth; ++k) {
    float a[kRows], b[kColumns];
#pragma unroll
    for (int i = 0; i < kRows; ++i) a[i] = left[i * kSide * kLeftRow + k * kLeftK];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) b[j] = right[j * kSide * kRightColumn + k * kRightK];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
  }
}
// Vectors of one tile times vectors of another: [kTile, kTile].
template <int kD>
__device__ void Dots(const float* rows, const float* columns, float (&sums)[kEach][kEach]) {
  Multiply<kD, kPitch<kD>, 1, kPitch<kD>, 1>(rows, columns, sums);
}
// p [rows, kTile] in shared memory times vectors: [kTile, kD].
template <int kD>
__device__ void Mix(const float* p, const float* vectors, float (&sums)[kEach][kD / kSide]) {
  Multiply<kTile, kScorePitch, 1, 1, kPitch<kD>>(p, vectors, sums);
}
// The same of p's transpose.
template <int kD>
__device__ void MixTransposed(const float* p, const float* vectors,
                              float (&sums)[kEach][kD / kSide]) {
  Multiply<kTile, 1, kScorePitch, 1, kPitch<kD>>(p, vectors, sums);
}

// Products q k' of a tile of vectors from `first` on and keys from `key` on become scores; -inf
// where a key is not there or not seen.
template <class Stored>
__device__ void Score(const SegmentView<Stored>& view, int first, int key,
                      float (&s)[kEach][kEach]) {
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int at = key + TileX() + j * kSide;
    const int64_t slot = view.Slot(at);
    const float bias =
        slot < view.x.raw_slots ? 0.0f : view.x.bias[view.Place(slot)];  // padding: not used
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int vector = first + TileY() + i * kSide;
      s[i][j] = slot >= 0 && view.Sees(vector, at) ? fmaf(view.x.scale, s[i][j], bias) : -INFINITY;
    }
  }
}

// Keys that the vectors [first, first + kTile) may see end here.
template <class Stored>
__device__ int KeysEnd(const SegmentView<Stored>& view, int first) {
  if (!view.group.causal_offset) return view.group.keys;
  const int64_t last = (first + kTile - 1) / view.per_head + view.group.causal_offset[view.segment];
  return static_cast<int>(min(max(last + 1, int64_t{0}), int64_t{view.group.keys}));
}

}  // namespace palimpsest::attention
