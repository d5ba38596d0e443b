#pragma once

#include <ATen/core/Tensor.h>

#include "common/compaction/matching_torch.h"

namespace palimpsest::attention {

// Where a window's queries come from, so that they need not be kept.
struct ReferenceRows {
  at::Tensor flat;  // [R, d], or the queries themselves [B, n, d]
  at::Tensor rows;  // int64 [B, n] of flat, -1 padding; undefined: flat are the queries
};

// MatchWindow with full gradients to keys, values, bias and reference rows. Of a fit it keeps the
// window alone: scores, systems and solutions are made again in the backward pass. `local` and
// window.queries are those of the forward pass. Letters as in matching_torch.h.
compaction::Fit MatchAgain(compaction::LocalSoftmax local, compaction::WindowBatch window,
                           compaction::Kept kept, compaction::Numerics numerics,
                           const ReferenceRows& references);

// Forward `value`, gradient to `target` (same shape).
at::Tensor StraightThrough(const at::Tensor& value, const at::Tensor& target);

}  // namespace palimpsest::attention
