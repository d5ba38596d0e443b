#pragma once

#include "common/compaction/cuda/windows.h"

// Attention Matching of a batch of heads on a GPU (design section 4): what ScoreWindow,
// ChooseByAttention, MatchWindow and MeasureEviction of matching_torch.h do, all on one stream,
// without allocating and without a look at the host. Not here: holdout queries, choosers other
// than rms, gradients.
namespace palimpsest::compaction {

template <class Stored>  // float or BFloat16
struct EventBatch {
  DeviceWindows<Stored> windows;
  bool forced = false;        // `kept` is given, else it is chosen by attention (rms)
  void* workspace = nullptr;  // EventWorkspaceBytes, at a multiple of 256
  int32_t* kept = nullptr;    // [B, t] slots of the window, ascending
  // Results. What stands behind `keep` of a problem means nothing.
  float* bias = nullptr;            // [B, t] b_j + log w_j
  Stored* values = nullptr;         // [B, t, d] V'
  double* kkt_residuals = nullptr;  // [B] relative to tr(G) / t
  int32_t* solves = nullptr;        // [B] systems that the weights took
  // How far the event is from what it replaces; nullptr: not asked for.
  double* mass_errors = nullptr;    // [B]
  double* output_errors = nullptr;  // [B], at the cost of another product
};

// 288 heads of 1024 slots to 256 under 512 queries with d = 128: 1.4 GB. Slices of heads take less:
// heads are problems of their own.
int64_t EventWorkspaceBytes(int problems, int w, int n, int t, int d);

template <class Stored>
cuda::Launched MatchEvents(const EventBatch<Stored>& batch, cuda::Stream stream);

// An eviction that listens: chooses (unless forced) and measures; biases and values stay what they
// are, so bias, values, residuals and solves are not written.
template <class Stored>
cuda::Launched EvictSlots(const EventBatch<Stored>& batch, cuda::Stream stream);

}  // namespace palimpsest::compaction
