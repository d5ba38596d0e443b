#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/base/status.h"
#include "common/collective/collective.h"
#include "common/model/decoder.h"
#include "common/model/layer_keeper.h"
#include "services/trainer/engine/slice_layout.h"

namespace palimpsest::trainer {

// What a rank holds of a model between passes: all weights, or the slices that it owns. Alone a
// rank owns all.
enum class WeightsHeld { kWhole, kSharded };

class GradientsToOwners;
class SlicesToAll;

// Who owns what of a model's parameters, how gradients come to their owners and values back to all.
// What goes together over the wire is a block: a decoder layer, the embedding, the head when it is
// another one, or the last norm, which is whole on each rank. Gradients are fp32, those of bf16
// parameters too: autograd adds them up so over micro-batches. Alone nothing is copied: the slices
// are the tensors themselves.
//
// Sharded, the storage of the other blocks is freed; a pass gets one whole when it takes it
// (all-gather) and what it finds goes to the owners (reduce-scatter). While one block computes, the
// next one of the pass arrives and the gradients of the last one leave: two blocks are whole at
// most, and the gradients of two. So all ranks make the same passes: one that has no rows left
// makes PassOfNothing.
class ParameterShards final : public model::LayerKeeper {
 public:
  // Makes the parameters require gradients. They and `ranks` outlive it.
  ParameterShards(const model::NamedTensors& parameters, Collective& ranks,
                  WeightsHeld held = WeightsHeld::kWhole);
  ~ParameterShards() override;

  bool sharded() const { return sharded_; }
  // Of each parameter its name and, flat, the values that this rank owns: storage of the parameter,
  // or of its own where the parameter is sharded.
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
  void Begin(bool backward) override;
  void Take(int layer) override;
  void Leave(int layer) override;
  void Found(int layer, const std::vector<at::Tensor>& leaves,
             const std::vector<at::Tensor>& gradients) override;
  // Takes part in a pass of others, and in its backward pass if it has one. Throws likewise.
  void PassOfNothing(bool backward);
  // All parameters are whole while `work` goes on. On all ranks.
  absl::Status WhileWhole(const std::function<absl::Status()>& work);

 private:
  struct Block {
    size_t first, last;  // parameters [first, last)
    SliceLayout layout;
    bool sharded = false;
    int taken = 0;                     // sharded: how often
    std::vector<at::Tensor> storages;  // sharded: one parameter of each storage
    std::vector<size_t> bytes;         // [storages]
  };
  bool Place(const std::string& name, size_t b);
  size_t BlockOf(int layer) const;
  void Part(Block& block);
  void Free(Block& block);
  void Release(Block& block);
  std::unique_ptr<SlicesToAll> Gathering(const Block& block) const;
  absl::Status Fill(Block& block, std::unique_ptr<SlicesToAll> arriving);
  absl::Status Settle();

  Collective& ranks_;
  const bool sharded_;
  model::NamedTensors parameters_, owned_;
  std::vector<Block> blocks_;
  size_t embedding_ = 0, head_ = 0;   // blocks; the same one when tied
  std::vector<size_t> layers_;        // the block of each
  std::vector<at::Tensor> sums_;      // [parameters] of sharded blocks: what has come to this rank
  std::map<const void*, size_t> at_;  // where a parameter stands

  // Of the pass.
  bool whole_ = false;                          // WhileWhole
  std::deque<size_t> to_take_;                  // blocks, in their order
  std::unique_ptr<SlicesToAll> arriving_;       // the first of these, if it is under way
  std::unique_ptr<GradientsToOwners> leaving_;  // of the block
  size_t leaving_from_ = 0;
};

}  // namespace palimpsest::trainer
