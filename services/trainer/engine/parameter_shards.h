#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/collective/collective.h"
#include "common/model/decoder.h"

namespace palimpsest::trainer {

// The flat range [begin, end) of a tensor of `count` elements that rank `rank` of `size` owns:
// equal parts, rounded up, so that the last ones may be shorter or empty. Alone: all of it.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};
FlatRange OwnedRange(int64_t count, int rank, int size);

// Who owns what of a model's parameters, and how ranks that hold all parameters bring gradients to
// their owners and new values back. What goes together over the wire is a block: a decoder layer,
// or what stands in none. Gradients are fp32, those of bf16 parameters too: autograd adds them up
// so over micro-batches. Values travel as fp32, which holds bf16. Alone nothing is copied: the
// slices are the tensors themselves.
class ParameterShards {
 public:
  // Makes the parameters require gradients. They and `ranks` outlive it.
  ParameterShards(const model::NamedTensors& parameters, Collective& ranks);
  ~ParameterShards();

  // Of each parameter its name and, flat, the values that this rank owns: storage of the parameter.
  const model::NamedTensors& owned() const { return owned_; }
  const model::NamedTensors& parameters() const { return parameters_; }

  // What autograd left becomes, summed over ranks, the gradient of each owned slice, flat, in the
  // order of owned(); autograd's tensors are freed on the way. A rank that had no rows counts as 0.
  // Alone a parameter without a gradient has an undefined one.
  absl::StatusOr<std::vector<at::Tensor>> TakeGradients();
  // All parameters whole again after the owners have stepped their slices.
  absl::Status Gather();
  void DropGradients();

 private:
  // Parameters [first, last) with the sum of the longest slices of each.
  struct Block {
    size_t first = 0, last = 0;
    int64_t width = 0;
  };
  // Where the slices of `block` stand in a buffer [size, width], and what `each` does with the part
  // of a rank: (parameter index, rank, its range, its offset in that rank's row).
  template <class Each>
  void ForEachSlice(const Block& block, const Each& each) const;

  Collective& ranks_;
  model::NamedTensors parameters_, owned_;
  std::vector<Block> blocks_;
};

}  // namespace palimpsest::trainer
