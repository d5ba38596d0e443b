#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/model/config.h"

namespace at {
class Tensor;
}

namespace palimpsest::model {

class LayerKeeper;

// Letters: T packed rows, D hidden width, H query heads, Hk KV heads, d head width, V vocabulary.

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

enum class DType { kFloat32, kBFloat16, kFloat64 };  // fp64 for tests only

// Which kernels a pass without autograd takes. kPlain: those of training, bit for bit. kFast: those
// of row_kernels.h where rows are few, which is where they are quicker. kFixed: those of
// row_kernels.h always: a row gives the same bits alone, among others and however its sequence is
// cut into chunks. The last two are for fp32 and bf16 on the CPU.
enum class Kernels { kPlain, kFast, kFixed };

// What a pass with autograd keeps of a layer until its backward pass: all that the layer computes,
// or its input rows alone, from which the backward pass computes the rest again, layer by layer.
// The same bits.
enum class Activations { kKept, kRecomputed };

// What attention means for the rows of one forward pass. The decoder knows nothing else of caches,
// logs or batches: rollout and training differ only in the object behind this interface.
class AttentionContext {
 public:
  virtual ~AttentionContext() = default;
  // q [T, H, d], k and v [T, Hk, d], after q/k norm and RoPE, in the model's dtype. Returns o [T,
  // H, d]. Where activations are recomputed each layer is asked once more in the backward pass, the
  // last one first, and must get the same answer: a context then outlives that pass.
  virtual at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) = 0;
};

// A decoder-only transformer of the Qwen3 / Qwen2 / Llama family. Not thread-safe while weights
// change.
class Decoder {
 public:
  // Reads config.json and safetensors (sharded too) of a Hugging Face folder. Errors name file and
  // tensor.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const std::string& folder, DType dtype,
                                                       Kernels kernels = Kernels::kPlain);
  // Fresh weights, a pure function of (config, seed).
  static std::unique_ptr<Decoder> Random(const ModelConfig& config, uint64_t seed, DType dtype,
                                         Kernels kernels = Kernels::kPlain);
  virtual ~Decoder() = default;

  virtual const ModelConfig& config() const = 0;
  virtual DType dtype() const = 0;
  virtual Kernels kernels() const = 0;

  // Of passes from now on; kKept until it is called.
  virtual void SetActivations(Activations activations) = 0;
  // Layers, embedding and head come and go by `keeper`, which outlives all passes and their
  // backward passes; null (until it is called): all are here. With autograd activations must be
  // recomputed then, as kept ones would hold the weights; kPlain kernels alone. Whoever uses the
  // head takes it (HeadTurn).
  virtual void SetLayerKeeper(LayerKeeper* keeper) = 0;
  virtual LayerKeeper* layer_keeper() const = 0;

  // Final-norm hidden rows [T, D]. ids, positions: int64 [T].
  virtual at::Tensor Hidden(const at::Tensor& ids, const at::Tensor& positions,
                            AttentionContext& attention) const = 0;
  // fp32 logits [N, V] of hidden rows [N, D] (fp64 when the model is).
  virtual at::Tensor Logits(const at::Tensor& hidden) const = 0;

  // Named as in the Hugging Face files; a tied head appears once, as the embedding. Handles share
  // storage with the model and are autograd leaves: set requires_grad on them, step them in place.
  virtual const NamedTensors& Parameters() const = 0;
  // [V, D]: the output projection; the embedding when tied.
  virtual const at::Tensor& HeadWeight() const = 0;

  // config.json and model.safetensors, readable by transformers. Makes the folder when it is
  // absent.
  absl::Status Save(const std::string& folder) const;
  // New weights in place, so handles stay good: everything is verified first, and on error nothing
  // has changed. The folder's config must equal ours.
  absl::Status LoadWeights(const std::string& folder);
  // The same from tensors named as Parameters() names them, in any order, dtype and device.
  absl::Status CopyWeights(const NamedTensors& tensors);
};

}  // namespace palimpsest::model
