#include <algorithm>
#include <cmath>

#include "common/attention/cuda/decode.h"
#include "common/cuda/device.cuh"

namespace palimpsest::attention {
namespace {

using cuda::Chunk;

constexpr int kThreads = 128;
constexpr int kAtOnce = 4;  // slots that a stream loads before it uses the first; divides a page
constexpr int kMostHeads = 8;

static_assert(kSlotsPerPage % kAtOnce == 0 && kDecodeSlotsPerPart % kSlotsPerPage == 0);

// A block serves kHeads query heads of one KV head over one part. Its threads are streams of
// d * sizeof(Stored) / 16 lanes: a stream takes slots 16 bytes a lane, keeps the running softmax of
// all kHeads heads in registers and meets the others at the end only.
template <class Stored, int kD, int kHeads>
struct Layout {
  static constexpr int kChannels = Chunk<Stored>::kCount;  // of a lane
  static constexpr int kLanes = kD / kChannels;            // of a stream
  static constexpr int kStreams = kThreads / kLanes;
  static constexpr int kFloats = kHeads * (kD + 2);  // of a stream in shared memory
  static_assert(kLanes <= cuda::kWarp);
};

// Part of a row, or of a stream: o is not yet divided by sum.
template <int kHeads, int kChannels>
struct Running {
  float o[kHeads][kChannels], most[kHeads], sum[kHeads];
};

__device__ bool Nothing(float most) { return most == -INFINITY; }

// Takes in the scores (hidden ones -inf) and values of kAtOnce slots under head a.
template <class Stored, int kHeads, int kChannels>
__device__ void Take(const float (&scores)[kAtOnce], const Chunk<Stored> (&v)[kAtOnce], int a,
                     Running<kHeads, kChannels>& r) {
  float high = r.most[a];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) high = max(high, scores[u]);
  if (Nothing(high)) return;
  const float shrink = expf(r.most[a] - high);
  r.most[a] = high;
  r.sum[a] *= shrink;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) r.o[a][c] *= shrink;
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    const float weight = expf(scores[u] - high);  // 0 where hidden
    r.sum[a] += weight;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) r.o[a][c] = fmaf(weight, cuda::Wide(v[u].x[c]), r.o[a][c]);
  }
}

// The slots [begin, end) that are this stream's: kAtOnce of every kAtOnce * kStreams.
template <class Stored, int kD, int kHeads>
__device__ void Scan(const DecodeBatch<Stored>& x, int row, int h, int begin, int end,
                     const float (&q)[kHeads][Chunk<Stored>::kCount],
                     Running<kHeads, Chunk<Stored>::kCount>& running) {
  using L = Layout<Stored, kD, kHeads>;
  const int stream = threadIdx.x / L::kLanes, lane = threadIdx.x % L::kLanes;
  const int32_t* table = x.tables + int64_t{row} * x.table_pages;
  const int kv_heads = x.cache.kv_heads;
  // All streams go round alike: a warp holds several, and its lanes sum together.
  for (int base = begin; base < end; base += kAtOnce * L::kStreams) {
    const int at = base + stream * kAtOnce;
    const int64_t first =
        at < end ? int64_t{table[at / kSlotsPerPage]} * kSlotsPerPage + at % kSlotsPerPage : 0;
    Chunk<Stored> k[kAtOnce] = {}, v[kAtOnce] = {};
    float bias[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      bias[u] = -INFINITY;
      if (at + u >= end) continue;  // what stands there may be anything, NaN too
      const int64_t place = (first + u) * kv_heads + h;
      k[u] = cuda::LoadChunk(x.cache.k + place * kD + lane * L::kChannels);
      v[u] = cuda::LoadChunk(x.cache.v + place * kD + lane * L::kChannels);
      bias[u] = x.cache.bias[place];
    }
#pragma unroll
    for (int a = 0; a < kHeads; ++a) {
      float scores[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        float sum = 0;
#pragma unroll
        for (int c = 0; c < L::kChannels; ++c) sum = fmaf(q[a][c], cuda::Wide(k[u].x[c]), sum);
        scores[u] = fmaf(x.scale, cuda::LaneSum<L::kLanes>(sum), bias[u]);
      }
      Take(scores, v, a, running);
    }
  }
}

// The streams' sums in shared memory, merged in order, go to o or, of one part among several, to
// the scratch: per row and KV head `parts` times [g, d] outputs and [g] pairs of maximum and sum.
template <class Stored, int kD, int kHeads>
__device__ void MergeStreams(const DecodeBatch<Stored>& x, const float* shared, int row, int h,
                             int first_head, bool whole) {
  using L = Layout<Stored, kD, kHeads>;
  const int group = x.heads / x.cache.kv_heads;
  float* part = x.scratch +
                ((int64_t{row} * x.cache.kv_heads + h) * gridDim.x + blockIdx.x) * group * (kD + 2);
  for (int i = threadIdx.x; i < kHeads * kD; i += kThreads) {
    const int a = i / kD, c = i % kD, head = first_head + a;
    if (head >= group) continue;
    float most = -INFINITY, sum = 0, value = 0;
    for (int s = 0; s < L::kStreams; ++s)
      most = max(most, shared[s * L::kFloats + kHeads * kD + 2 * a]);
    for (int s = 0; s < L::kStreams && !Nothing(most); ++s) {
      const float* facts = shared + s * L::kFloats + kHeads * kD + 2 * a;
      const float share = expf(facts[0] - most);
      sum = fmaf(share, facts[1], sum);
      value = fmaf(share, shared[s * L::kFloats + i], value);
    }
    if (whole) {
      cuda::Store(sum > 0 ? value / sum : 0.0f,
                  x.o + (int64_t{row} * x.heads + h * group + head) * kD + c);
      continue;
    }
    part[head * kD + c] = value;
    if (c == 0) part[group * kD + 2 * head] = most, part[group * kD + 2 * head + 1] = sum;
  }
}

// Grid: parts, KV heads times tiles of kHeads query heads, rows.
template <class Stored, int kD, int kHeads>
__global__ void __launch_bounds__(kThreads) AttendParts(DecodeBatch<Stored> x) {
  using L = Layout<Stored, kD, kHeads>;
  const int group = x.heads / x.cache.kv_heads, tiles = (group + kHeads - 1) / kHeads;
  const int row = blockIdx.z, h = blockIdx.y / tiles, first_head = blockIdx.y % tiles * kHeads;
  const int slots = x.slots[int64_t{row} * x.cache.kv_heads + h];
  const int begin = blockIdx.x * kDecodeSlotsPerPart;
  if (begin >= slots && blockIdx.x > 0) return;
  const int lane = threadIdx.x % L::kLanes;
  float q[kHeads][L::kChannels];
  Running<kHeads, L::kChannels> running;
#pragma unroll
  for (int a = 0; a < kHeads; ++a) {
    Chunk<Stored> chunk = {};
    if (first_head + a < group)
      chunk = cuda::LoadChunk(x.q + (int64_t{row} * x.heads + h * group + first_head + a) * kD +
                              lane * L::kChannels);
    running.most[a] = -INFINITY, running.sum[a] = 0;
#pragma unroll
    for (int c = 0; c < L::kChannels; ++c) q[a][c] = cuda::Wide(chunk.x[c]), running.o[a][c] = 0;
  }
  Scan<Stored, kD, kHeads>(x, row, h, begin, min(slots, begin + kDecodeSlotsPerPart), q, running);
  float* shared = cuda::SharedMemory<float>();
  float* mine = shared + threadIdx.x / L::kLanes * L::kFloats;
#pragma unroll
  for (int a = 0; a < kHeads; ++a) {
#pragma unroll
    for (int c = 0; c < L::kChannels; ++c) mine[a * kD + lane * L::kChannels + c] = running.o[a][c];
    if (lane == 0) {
      mine[kHeads * kD + 2 * a] = running.most[a];
      mine[kHeads * kD + 2 * a + 1] = running.sum[a];
    }
  }
  __syncthreads();
  MergeStreams<Stored, kD, kHeads>(x, shared, row, h, first_head, slots <= kDecodeSlotsPerPart);
}

// Grid: query heads, rows; a thread per channel.
template <class Stored>
__global__ void __launch_bounds__(kThreads) MergeRows(DecodeBatch<Stored> x, int max_parts) {
  const int head = blockIdx.x, row = blockIdx.y, d = x.cache.d, c = threadIdx.x;
  const int group = x.heads / x.cache.kv_heads, h = head / group, a = head % group;
  const int64_t place = int64_t{row} * x.cache.kv_heads + h;
  const int parts = DecodeParts(x.slots[place]), stride = group * (d + 2);
  if (parts <= 1) return;
  const float* scratch = x.scratch + place * max_parts * stride;
  const float* facts = scratch + group * d + 2 * a;  // maximum and sum, a stride per part
  float most = facts[0], sum = 0, value = 0;
  for (int p = 1; p < parts; ++p) most = max(most, facts[int64_t{p} * stride]);
  for (int p = 0; p < parts; ++p) {
    const float share = expf(facts[int64_t{p} * stride] - most);
    sum = fmaf(share, facts[int64_t{p} * stride + 1], sum);
    value = fmaf(share, scratch[int64_t{p} * stride + a * d + c], value);
  }
  cuda::Store(value / sum, x.o + (int64_t{row} * x.heads + head) * d + c);
}

template <class Stored, int kD, int kHeads>
cuda::Launched LaunchDecode(const DecodeBatch<Stored>& x, cuda::Stream stream) {
  using L = Layout<Stored, kD, kHeads>;
  const int group = x.heads / x.cache.kv_heads, tiles = (group + kHeads - 1) / kHeads;
  const auto parts = static_cast<unsigned>(std::max(1, DecodeParts(x.max_slots)));
  const auto rows = static_cast<unsigned>(x.rows);
  const cuda::Launched launched =
      cuda::Launch(AttendParts<Stored, kD, kHeads>,
                   {.grid = {parts, static_cast<unsigned>(x.cache.kv_heads * tiles), rows},
                    .threads = kThreads,
                    .shared_bytes = sizeof(float) * L::kStreams * L::kFloats},
                   stream, x);
  if (!launched.ok() || parts == 1) return launched;
  return cuda::Launch(MergeRows<Stored>,
                      {.grid = {static_cast<unsigned>(x.heads), rows, 1}, .threads = kD}, stream, x,
                      static_cast<int>(parts));
}

template <class Stored, int kD>
cuda::Launched ByGroup(const DecodeBatch<Stored>& x, cuda::Stream stream) {
  const int group = x.heads / x.cache.kv_heads;
  if (group == 1) return LaunchDecode<Stored, kD, 1>(x, stream);
  if (group == 2) return LaunchDecode<Stored, kD, 2>(x, stream);
  if (group <= 4) return LaunchDecode<Stored, kD, 4>(x, stream);
  return LaunchDecode<Stored, kD, kMostHeads>(x, stream);
}

}  // namespace

template <class Stored>
cuda::Launched Decode(const DecodeBatch<Stored>& x, cuda::Stream stream) {
  const int kv_heads = x.cache.kv_heads;
  if (kv_heads < 1 || x.heads < 1 || x.heads % kv_heads != 0)
    return {"heads=" + std::to_string(x.heads) +
            " is no multiple of kv_heads=" + std::to_string(kv_heads)};
  if (x.max_slots > x.table_pages * kSlotsPerPage)
    return {"max_slots=" + std::to_string(x.max_slots) +
            " do not fit into table_pages=" + std::to_string(x.table_pages)};
  if (x.cache.d == 128) return ByGroup<Stored, 128>(x, stream);
  if (x.cache.d == 64) return ByGroup<Stored, 64>(x, stream);
  return {"d=" + std::to_string(x.cache.d) + " is neither 64 nor 128"};
}

template cuda::Launched Decode(const DecodeBatch<float>&, cuda::Stream);
template cuda::Launched Decode(const DecodeBatch<BFloat16>&, cuda::Stream);

}  // namespace palimpsest::attention
