#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "services/trainer/engine/slice_exchange_torch.h"

namespace palimpsest::trainer {
namespace {

// The collectives carry floats; numbers of another width go as bits.
std::span<float> Floats(const at::Tensor& tensor) {
  return {static_cast<float*>(tensor.mutable_data_ptr()), tensor.nbytes() / sizeof(float)};
}

at::Tensor Row(const SliceLayout& layout, int rank, std::span<const at::Tensor> slices) {
  const c10::NoGradGuard no_grad;
  const at::Tensor row = at::zeros({layout.width()}, slices.front().scalar_type());
  for (const SliceLayout::Slice& s : layout.slices()) {
    if (s.rank == rank) row.narrow(0, s.offset, s.range.count()).copy_(slices[s.tensor]);
  }
  return row;
}

at::Tensor Rows(const SliceLayout& layout, std::span<const at::Tensor> gradients) {
  const c10::NoGradGuard no_grad;
  const at::Tensor rows = at::zeros({layout.ranks(), layout.width()}, at::kFloat);
  for (const SliceLayout::Slice& s : layout.slices()) {
    if (!gradients[s.tensor].defined()) continue;
    const at::Tensor flat = gradients[s.tensor].reshape(-1);
    rows[s.rank]
        .narrow(0, s.offset, s.range.count())
        .copy_(flat.narrow(0, s.range.begin, s.range.count()));
  }
  return rows;
}

}  // namespace

SlicesToAll::SlicesToAll(const SliceLayout& layout, Collective& ranks,
                         std::span<const at::Tensor> mine)
    : layout_(layout),
      mine_(Row(layout, ranks.rank(), mine)),
      all_(at::empty({layout.ranks(), layout.width()}, mine_.options())),
      arriving_(ranks.BeginAllGather(Floats(mine_), Floats(all_))) {}

absl::Status SlicesToAll::Wait() { return arriving_.Wait(); }

void SlicesToAll::Fill(std::span<const at::Tensor> tensors) const {
  const c10::NoGradGuard no_grad;
  for (const SliceLayout::Slice& s : layout_.slices()) {
    tensors[s.tensor]
        .view(-1)
        .narrow(0, s.range.begin, s.range.count())
        .copy_(all_[s.rank].narrow(0, s.offset, s.range.count()));
  }
}

GradientsToOwners::GradientsToOwners(const SliceLayout& layout, Collective& ranks,
                                     std::span<const at::Tensor> gradients)
    : layout_(layout),
      rank_(ranks.rank()),
      all_(Rows(layout, gradients)),
      mine_(at::empty({layout.width()}, at::kFloat)),
      arriving_(ranks.BeginReduceScatter(Floats(all_), Floats(mine_))) {}

absl::StatusOr<std::vector<at::Tensor>> GradientsToOwners::Wait() {
  RETURN_IF_ERROR(arriving_.Wait());
  std::vector<at::Tensor> slices;
  for (const SliceLayout::Slice& s : layout_.slices()) {
    if (s.rank == rank_) slices.push_back(mine_.narrow(0, s.offset, s.range.count()));
  }
  return slices;
}

}  // namespace palimpsest::trainer
