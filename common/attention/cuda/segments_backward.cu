#include "common/attention/cuda/segment_tiles.cuh"

namespace palimpsest::attention {
namespace {

constexpr int kReduceThreads = 128;

// What backward is given besides the operands.
struct Pulls {
  const float *d_o, *lse, *delta;  // [T, H, d], [T, H] twice
};

// Of a tile of vectors and a tile of keys, all staged: p = e^(S - L), d_s = p (dO V' - delta); 0
// where there is no vector or key.
template <int kD, class Stored>
__device__ void Weigh(const SegmentView<Stored>& view, const Pulls& pulls, int first, int key,
                      const float* q, const float* k, const float* v, const float* d_o,
                      float (&p)[kEach][kEach], float (&d_s)[kEach][kEach]) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) p[i][j] = d_s[i][j] = 0;
  }
  Dots<kD>(q, k, p);
  Score(view, first, key, p);
  Dots<kD>(d_o, v, d_s);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t at = view.Vector(first + TileY() + i * kSide);
    const float lse = at < 0 ? INFINITY : pulls.lse[at], delta = at < 0 ? 0.0f : pulls.delta[at];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      p[i][j] = expf(p[i][j] - lse);
      d_s[i][j] = p[i][j] * (d_s[i][j] - delta);
    }
  }
}

__device__ void Put(const float (&from)[kEach][kEach], float* to) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      to[(TileY() + i * kSide) * kScorePitch + TileX() + j * kSide] = from[i][j];
  }
}

// Grid: tiles of query vectors, KV heads, segments. Nobody else adds to these vectors' dQ.
template <class Stored, int kD>
__global__ void __launch_bounds__(kTileThreads)
    QueryKernel(KernelOperands<Stored, float> x, DeviceGroup group, Pulls pulls, float* d_q) {
  const SegmentView<Stored> view(x, group, blockIdx.z, blockIdx.y);
  const int first = blockIdx.x * kTile;
  constexpr int kFloats = kTile * kPitch<kD>;
  float *q = cuda::SharedMemory<float>(), *d_o = q + kFloats, *k = d_o + kFloats, *v = k + kFloats,
        *shared = v + kFloats;
  StageQueries<kD>(view, first, q);
  StageOutputGradients<kD>(view, pulls.d_o, first, d_o);
  float sums[kEach][kD / kSide] = {};
  const int end = KeysEnd(view, first);
  for (int key = 0; key < end; key += kTile) {
    __syncthreads();
    StageKeys<kD>(view, false, key, k);
    StageKeys<kD>(view, true, key, v);
    __syncthreads();
    float p[kEach][kEach], d_s[kEach][kEach];
    Weigh<kD>(view, pulls, first, key, q, k, v, d_o, p, d_s);
    Put(d_s, shared);
    __syncthreads();
    Mix<kD>(shared, k, sums);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t at = view.Vector(first + TileY() + i * kSide);
    if (at < 0) continue;
#pragma unroll
    for (int c = 0; c < kD / kSide; ++c) d_q[at * kD + TileX() + c * kSide] += x.scale * sums[i][c];
  }
}

// Where the gradients of one entry of keys go: `d_k` and `d_v` [d] and `bias`, added to or, in the
// scratch of ordered sums, set.
struct KeyShare {
  float *k, *v, *bias;
};
template <class Stored>
__device__ KeyShare ShareOf(const SegmentView<Stored>& view, int64_t slot,
                            const KernelGradients<float>& out) {
  const int64_t at = view.Place(slot);
  if (slot < view.x.raw_slots) return {out.k + at * view.x.d, out.v + at * view.x.d, nullptr};
  return {out.k_compact + at * view.x.d, out.v_compact + at * view.x.d, out.bias + at};
}

// Grid: tiles of keys, KV heads, segments. `scratch` [entries, 2 d + 1], or nullptr: shares are
// added where they belong as they come.
template <class Stored, int kD>
__global__ void __launch_bounds__(kTileThreads)
    KeyKernel(KernelOperands<Stored, float> x, DeviceGroup group, Pulls pulls,
              KernelGradients<float> out, float* scratch) {
  const SegmentView<Stored> view(x, group, blockIdx.z, blockIdx.y);
  const int key = blockIdx.x * kTile;
  constexpr int kFloats = kTile * kPitch<kD>, kScores = kTile * kScorePitch;
  float *q = cuda::SharedMemory<float>(), *d_o = q + kFloats, *k = d_o + kFloats, *v = k + kFloats,
        *weights = v + kFloats, *pulled = weights + kScores;
  StageKeys<kD>(view, false, key, k);
  StageKeys<kD>(view, true, key, v);
  float d_k[kEach][kD / kSide] = {}, d_v[kEach][kD / kSide] = {}, d_bias = 0;
  for (int first = 0; first < view.vectors(); first += kTile) {
    if (KeysEnd(view, first) <= key) continue;
    __syncthreads();
    StageQueries<kD>(view, first, q);
    StageOutputGradients<kD>(view, pulls.d_o, first, d_o);
    __syncthreads();
    float p[kEach][kEach], d_s[kEach][kEach];
    Weigh<kD>(view, pulls, first, key, q, k, v, d_o, p, d_s);
    Put(p, weights);
    Put(d_s, pulled);
    __syncthreads();
    MixTransposed<kD>(weights, d_o, d_v);
    MixTransposed<kD>(pulled, q, d_k);
    if (threadIdx.x < kTile) {
      for (int i = 0; i < kTile; ++i) d_bias += pulled[i * kScorePitch + threadIdx.x];
    }
  }
  // A key's bias gradient is known to thread `key` of the tile; the others of its row are told.
  __syncthreads();
  if (threadIdx.x < kTile) weights[threadIdx.x] = d_bias;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int j = TileY() + i * kSide;
    const int64_t slot = view.Slot(key + j);
    if (slot < 0) continue;
    float* share = scratch ? scratch + view.Entry(key + j) * (2 * kD + 1) : nullptr;
    const KeyShare to = ShareOf(view, slot, out);
#pragma unroll
    for (int c = 0; c < kD / kSide; ++c) {
      const int channel = TileX() + c * kSide;
      if (share) {
        share[channel] = x.scale * d_k[i][c], share[kD + channel] = d_v[i][c];
      } else {
        atomicAdd(to.k + channel, x.scale * d_k[i][c]), atomicAdd(to.v + channel, d_v[i][c]);
      }
    }
    if (TileX() > 0) continue;
    if (share) {
      share[2 * kD] = weights[j];
    } else if (to.bias) {
      atomicAdd(to.bias, weights[j]);
    }
  }
}

// Grid: places. Each is one slot of one KV head, and nobody else's.
__global__ void __launch_bounds__(kReduceThreads)
    ReduceKernel(OrderedSums sums, KernelGradients<float> out, int64_t raw_places, int d) {
  const int64_t place = sums.places[blockIdx.x];
  const int64_t begin = sums.begins[blockIdx.x], end = sums.begins[blockIdx.x + 1];
  const bool raw = place < raw_places;
  const int64_t at = raw ? place : place - raw_places;
  for (int c = threadIdx.x; c < 2 * d + 1; c += kReduceThreads) {
    float sum = 0;
    for (int64_t e = begin; e < end; ++e) sum += sums.scratch[sums.entries[e] * (2 * d + 1) + c];
    if (c < d) {
      (raw ? out.k : out.k_compact)[at * d + c] += sum;
    } else if (c < 2 * d) {
      (raw ? out.v : out.v_compact)[at * d + c - d] += sum;
    } else if (!raw) {
      out.bias[at] += sum;
    }
  }
}

template <class Stored, int kD>
cuda::Launched Backward(const KernelOperands<Stored, float>& x, const DeviceGroup& group,
                        const Pulls& pulls, const KernelGradients<float>& out,
                        const OrderedSums& ordered, cuda::Stream stream) {
  const int vectors = group.queries * (x.heads / x.kv_heads);
  const auto tiles = [](int count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
  const auto kv_heads = static_cast<unsigned>(group.kv_heads);
  const auto segments = static_cast<unsigned>(group.segments);
  const cuda::Launched queries =
      cuda::Launch(QueryKernel<Stored, kD>,
                   {.grid = {tiles(vectors), kv_heads, segments},
                    .threads = kTileThreads,
                    .shared_bytes = sizeof(float) * kTile * (4 * kPitch<kD> + kScorePitch)},
                   stream, x, group, pulls, out.q);
  if (!queries.ok()) return queries;
  const cuda::Launched keys =
      cuda::Launch(KeyKernel<Stored, kD>,
                   {.grid = {tiles(group.keys), kv_heads, segments},
                    .threads = kTileThreads,
                    .shared_bytes = sizeof(float) * kTile * (4 * kPitch<kD> + 2 * kScorePitch)},
                   stream, x, group, pulls, out, ordered.count > 0 ? ordered.scratch : nullptr);
  if (!keys.ok() || ordered.count == 0) return keys;
  return cuda::Launch(
      ReduceKernel,
      {.grid = {static_cast<unsigned>(ordered.count), 1, 1}, .threads = kReduceThreads}, stream,
      ordered, out, x.raw_slots * x.kv_heads, x.d);
}

}  // namespace

template <class Stored>
cuda::Launched BackwardGroup(const KernelOperands<Stored, float>& x, const DeviceGroup& group,
                             const float* d_o, const float* lse, const float* delta,
                             const KernelGradients<float>& out, const OrderedSums& ordered,
                             cuda::Stream stream) {
  const Pulls pulls{d_o, lse, delta};
  if (x.d == 128) return Backward<Stored, 128>(x, group, pulls, out, ordered, stream);
  if (x.d == 64) return Backward<Stored, 64>(x, group, pulls, out, ordered, stream);
  return {"d=" + std::to_string(x.d) + " is neither 64 nor 128"};
}

#define PALIMPSEST_BACKWARD(Stored)                                                         \
  template cuda::Launched BackwardGroup(                                                    \
      const KernelOperands<Stored, float>&, const DeviceGroup&, const float*, const float*, \
      const float*, const KernelGradients<float>&, const OrderedSums&, cuda::Stream);
PALIMPSEST_BACKWARD(float)
PALIMPSEST_BACKWARD(BFloat16)
#undef PALIMPSEST_BACKWARD

}  // namespace palimpsest::attention
