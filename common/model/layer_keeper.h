#pragma once

#include <vector>

namespace at {
class Tensor;
}

namespace palimpsest::model {

// Beside layers 0, 1, .. of a decoder what stands before and behind them. A tied head is the
// embedding, and is taken as either.
inline constexpr int kEmbedding = -1, kHead = -2;

// Who keeps a decoder's layers, embedding and head when not all of them are held at all times.
// Errors are thrown: the pass cannot go on. One thread.
class LayerKeeper {
 public:
  virtual ~LayerKeeper() = default;
  // A pass begins: what is taken next are the embedding and all layers upwards, and if `backward`,
  // the head and all layers downwards, one after the other.
  virtual void Begin(bool backward) = 0;
  virtual void Take(int layer) = 0;   // its parameters hold their values when this returns
  virtual void Leave(int layer) = 0;  // once for each Take: they are not needed for now
  // What a backward pass found for `leaves`, the layer's parameters; undefined: nothing. Autograd
  // keeps nothing of it. Of all that is taken on the way back, and then of the embedding.
  virtual void Found(int layer, const std::vector<at::Tensor>& leaves,
                     const std::vector<at::Tensor>& gradients) = 0;
};

// A layer is taken for as long as this lives. Without a keeper it is there anyway.
class LayerHold {
 public:
  LayerHold(LayerKeeper* keeper, int layer) : keeper_(keeper), layer_(layer) {
    if (keeper_ != nullptr) keeper_->Take(layer_);
  }
  ~LayerHold() {
    if (keeper_ != nullptr) keeper_->Leave(layer_);
  }
  LayerHold(const LayerHold&) = delete;
  LayerHold& operator=(const LayerHold&) = delete;

 private:
  LayerKeeper* const keeper_;
  const int layer_;
};

}  // namespace palimpsest::model
