#pragma once

#include <vector>

namespace at {
class Tensor;
}

namespace palimpsest::model {

// Who keeps a decoder's layers when not all of them are held at all times. A pass takes the layers
// upwards, its backward pass downwards, one after the other. Errors are thrown: the pass cannot go
// on. One thread.
class LayerKeeper {
 public:
  virtual ~LayerKeeper() = default;
  virtual void Take(int layer) = 0;   // its parameters hold their values when this returns
  virtual void Leave(int layer) = 0;  // once for each Take: they are not needed for now
  // What a backward pass found for `leaves`, the layer's parameters; undefined: nothing. Comes
  // between Take and Leave; autograd keeps nothing of it.
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
