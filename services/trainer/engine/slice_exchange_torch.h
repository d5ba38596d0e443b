#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "common/collective/collective.h"
#include "services/trainer/engine/slice_layout.h"

namespace palimpsest::trainer {

// Slices of some tensors on their way from their owners to all ranks. Goes on beside what this rank
// computes, if the ranks let it (Collective::BeginAllGather); layout and ranks outlive it.
class SlicesToAll {
 public:
  // `mine`: this rank's slice of each tensor, all of one type, which travels as it is.
  SlicesToAll(const SliceLayout& layout, Collective& ranks, std::span<const at::Tensor> mine);

  absl::Status Wait();  // once, before Fill
  // The flat tensors get the values of all slices.
  void Fill(std::span<const at::Tensor> tensors) const;

 private:
  const SliceLayout& layout_;
  at::Tensor mine_, all_;  // [width], [ranks, width]
  Pending arriving_;       // last: it reads and writes them
};

// Gradients of some tensors on their way to the owners of their slices, likewise.
class GradientsToOwners {
 public:
  // Of each tensor its gradient; undefined: 0. They are copied.
  GradientsToOwners(const SliceLayout& layout, Collective& ranks,
                    std::span<const at::Tensor> gradients);

  // Once: of each tensor the sum over ranks of this rank's slice, fp32 [count].
  absl::StatusOr<std::vector<at::Tensor>> Wait();

 private:
  const SliceLayout& layout_;
  const int rank_;
  at::Tensor all_, mine_;  // fp32 [ranks, width], [width]
  Pending arriving_;       // last: it reads and writes them
};

}  // namespace palimpsest::trainer
