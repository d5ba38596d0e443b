#include "common/attention/cuda/segment_tiles.cuh"

namespace palimpsest::attention {
namespace {

// Grid: tiles of query vectors, KV heads, segments.
template <class Stored, int kD>
__global__ void __launch_bounds__(kTileThreads)
    ForwardKernel(KernelOperands<Stored, float> x, DeviceGroup group, float* o, float* lse) {
  const SegmentView<Stored> view(x, group, blockIdx.z, blockIdx.y);
  const int first = blockIdx.x * kTile;
  float* q = cuda::SharedMemory<float>();
  float *k = q + kTile * kPitch<kD>, *v = k + kTile * kPitch<kD>, *p = v + kTile * kPitch<kD>;
  StageQueries<kD>(view, first, q);
  float mixed[kEach][kD / kSide] = {}, most[kEach], sum[kEach] = {};
  for (float& m : most) m = -INFINITY;
  const int end = KeysEnd(view, first);
  for (int key = 0; key < end; key += kTile) {
    __syncthreads();
    StageKeys<kD>(view, false, key, k);
    StageKeys<kD>(view, true, key, v);
    __syncthreads();
    float s[kEach][kEach] = {};
    Dots<kD>(q, k, s);
    Score(view, first, key, s);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      float high = most[i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) high = max(high, s[i][j]);
      high = cuda::LaneMax<kSide>(high);
      // Nothing seen so far: any finite reference gives weights of 0.
      const float reference = high == -INFINITY ? 0.0f : high;
      const float shrink = expf(most[i] - reference);
      most[i] = high;
      float added = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const float weight = expf(s[i][j] - reference);
        p[(TileY() + i * kSide) * kScorePitch + TileX() + j * kSide] = weight;
        added += weight;
      }
      sum[i] = sum[i] * shrink + cuda::LaneSum<kSide>(added);
#pragma unroll
      for (int c = 0; c < kD / kSide; ++c) mixed[i][c] *= shrink;
    }
    __syncthreads();
    Mix<kD>(p, v, mixed);
  }
  float old[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t at = view.Vector(first + TileY() + i * kSide);
    old[i] = at < 0 ? 0.0f : lse[at];
  }
  __syncthreads();  // all threads of a row have read it
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t at = view.Vector(first + TileY() + i * kSide);
    if (at < 0 || sum[i] == 0) continue;
    const float part = most[i] + logf(sum[i]), high = max(old[i], part);
    const float merged = high + logf(expf(old[i] - high) + expf(part - high));
    const float old_share = expf(old[i] - merged), share = expf(part - merged) / sum[i];
#pragma unroll
    for (int c = 0; c < kD / kSide; ++c) {
      float& to = o[at * kD + TileX() + c * kSide];
      to = old_share * to + share * mixed[i][c];
    }
    if (TileX() == 0) lse[at] = merged;
  }
}

template <class Stored, int kD>
cuda::Launched Forward(const KernelOperands<Stored, float>& x, const DeviceGroup& group, float* o,
                       float* lse, cuda::Stream stream) {
  const int vectors = group.queries * (x.heads / x.kv_heads);
  return cuda::Launch(
      ForwardKernel<Stored, kD>,
      {.grid = {static_cast<unsigned>((vectors + kTile - 1) / kTile),
                static_cast<unsigned>(group.kv_heads), static_cast<unsigned>(group.segments)},
       .threads = kTileThreads,
       .shared_bytes = sizeof(float) * kTile * (3 * kPitch<kD> + kScorePitch)},
      stream, x, group, o, lse);
}

}  // namespace

template <class Stored>
cuda::Launched ForwardGroup(const KernelOperands<Stored, float>& x, const DeviceGroup& group,
                            float* o, float* lse, cuda::Stream stream) {
  if (x.d == 128) return Forward<Stored, 128>(x, group, o, lse, stream);
  if (x.d == 64) return Forward<Stored, 64>(x, group, o, lse, stream);
  return {"d=" + std::to_string(x.d) + " is neither 64 nor 128"};
}

template cuda::Launched ForwardGroup(const KernelOperands<float, float>&, const DeviceGroup&,
                                     float*, float*, cuda::Stream);
template cuda::Launched ForwardGroup(const KernelOperands<BFloat16, float>&, const DeviceGroup&,
                                     float*, float*, cuda::Stream);

}  // namespace palimpsest::attention
