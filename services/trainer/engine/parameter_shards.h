#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/collective/collective.h"
#include "common/model/decoder.h"
#include "common/model/layer_keeper.h"

namespace palimpsest::trainer {

// The flat range [begin, end) of a tensor of `count` elements that rank `rank` of `size` owns:
// equal parts, rounded up, so that the last ones may be shorter or empty. Alone: all of it.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};
FlatRange OwnedRange(int64_t count, int rank, int size);

// What a rank holds of a model between passes: all weights, or of its layers the slices that it
// owns. Alone a rank owns all.
enum class WeightsHeld { kWhole, kSharded };

// Who owns what of a model's parameters, how gradients come to their owners and values back to all.
// What goes together over the wire is a block: a decoder layer, or what stands in none (embedding,
// last norm, head), which is whole on each rank. Gradients are fp32, those of bf16 parameters too:
// autograd adds them up so over micro-batches. Values travel as fp32, which holds bf16. Alone
// nothing is copied: the slices are the tensors themselves.
//
// Sharded, the layers' storage is freed; a pass gets a layer whole when it takes it (all-gather)
// and what it finds goes to the owners at once (reduce-scatter). So all ranks make the same passes:
// one that has no rows left makes PassOfNothing.
class ParameterShards final : public model::LayerKeeper {
 public:
  // Makes the parameters require gradients. They and `ranks` outlive it.
  ParameterShards(const model::NamedTensors& parameters, Collective& ranks,
                  WeightsHeld held = WeightsHeld::kWhole);
  ~ParameterShards() override;

  bool sharded() const { return sharded_; }
  // Of each parameter its name and, flat, the values that this rank owns: storage of the parameter,
  // or of its own where layers are sharded.
  const model::NamedTensors& owned() const { return owned_; }
  const model::NamedTensors& parameters() const { return parameters_; }

  // What autograd left, or passes found, becomes, summed over ranks, the gradient of each owned
  // slice, flat, in the order of owned(); autograd's tensors are freed on the way. A rank that had
  // no rows counts as 0. Alone a parameter without a gradient has an undefined one.
  absl::StatusOr<std::vector<at::Tensor>> TakeGradients();
  // What is held whole is whole again after the owners have stepped their slices.
  absl::Status Gather();
  void DropGradients();

  // Of LayerKeeper, by passes. Throw what the ranks' exchange says.
  void Take(int layer) override;
  void Leave(int layer) override;
  void Found(int layer, const std::vector<at::Tensor>& leaves,
             const std::vector<at::Tensor>& gradients) override;
  // Takes part in a pass of others, and in its backward pass if it has one. Throws likewise.
  void PassOfNothing(bool backward);
  // All parameters are whole while `work` goes on. On all ranks.
  absl::Status WhileWhole(const std::function<absl::Status()>& work);

 private:
  // Parameters [first, last) with the sum of the longest slices of each.
  struct Block {
    size_t first = 0, last = 0;
    int64_t width = 0;
    bool sharded = false;
    int taken = 0;                     // sharded: how often
    std::vector<at::Tensor> storages;  // sharded: one parameter of each storage
    std::vector<size_t> bytes;         // [storages]
  };
  void Part(Block& block);
  void Free(Block& block);
  absl::Status Fill(Block& block);
  absl::Status Exchange(const Block& block);
  absl::StatusOr<at::Tensor> Reduce(const Block& block,
                                    const std::function<at::Tensor(size_t)>& gradient);
  // Where the slices of `block` stand in a buffer [size, width], and what `each` does with the part
  // of a rank: (parameter index, rank, its range, its offset in that rank's row).
  template <class Each>
  void ForEachSlice(const Block& block, const Each& each) const;

  Collective& ranks_;
  const bool sharded_;
  model::NamedTensors parameters_, owned_;
  std::vector<Block> blocks_;
  std::vector<size_t> layers_;        // the block of each
  std::vector<at::Tensor> sums_;      // [parameters] of sharded blocks: what passes have found
  std::map<const void*, size_t> at_;  // where a parameter stands
};

}  // namespace palimpsest::trainer
