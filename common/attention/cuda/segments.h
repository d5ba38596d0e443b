#pragma once

#include <cstdint>
#include <vector>

#include "common/attention/plan.h"
#include "common/attention/segment_kernel.h"
#include "common/cuda/launch.h"

// A plan's groups on a GPU, forward and backward: the twins of ForwardSegment and BackwardSegment
// for all segments and KV heads of a group at once. Letters as in segment_kernel.h; pointers lead
// to device memory unless it says otherwise. d is 64 or 128; Stored is float or BFloat16, sums are
// fp32.
namespace palimpsest::attention {

// A KernelGroup whose lists stand in device memory. Padding (-1) stands at the end of each list.
struct DeviceGroup {
  int segments = 0, kv_heads = 0, queries = 0, keys = 0;
  const int64_t* query_rows = nullptr;     // [S, Lq]
  const int64_t* key_slots = nullptr;      // [S, Hk, Lk]
  const int64_t* causal_offset = nullptr;  // [S]; nullptr: every query sees every key
};

// Merges the group into o [T, H, d] and lse [T, H], which begin at 0 and -inf before the first one.
template <class Stored>
cuda::Launched ForwardGroup(const KernelOperands<Stored, float>& x, const DeviceGroup& group,
                            float* o, float* lse, cuda::Stream stream);

// Which keys of a group stand for the same slot, so that their gradients can be summed in one
// order: a shared prompt is a key of many segments. Key (s, h, j) is entry (s Hk + h) Lk + j.
struct KeyUses {
  std::vector<int64_t> places;   // [U] slot Hk + h, ascending
  std::vector<int64_t> begins;   // [U + 1] into entries
  std::vector<int64_t> entries;  // of each place, ascending
};
KeyUses UsesOf(const KernelGroup& group);  // host

// The same in device memory, with room for every entry's share.
struct OrderedSums {
  const int64_t *places = nullptr, *begins = nullptr, *entries = nullptr;
  int64_t count = 0;         // U; 0: no order, gradients of keys are added as they come
  float* scratch = nullptr;  // OrderedScratch floats
};
int64_t OrderedScratch(const DeviceGroup& group, int d);

// Adds the group's share of the gradients from the merged lse and delta = sum(dO * O), both [T, H].
// dQ has one order of sums. dK, dV and dbias have it with `ordered`; without, their last bits
// depend on the run.
template <class Stored>
cuda::Launched BackwardGroup(const KernelOperands<Stored, float>& x, const DeviceGroup& group,
                             const float* d_o, const float* lse, const float* delta,
                             const KernelGradients<float>& out, const OrderedSums& ordered,
                             cuda::Stream stream);

}  // namespace palimpsest::attention
