#include "services/inference/engine/cuda_weights.h"

#include <ATen/core/Tensor.h>

#include <list>
#include <map>
#include <string>

#include "absl/strings/str_format.h"
#include "common/model/rope.h"

namespace palimpsest::inference {
namespace {

// Gives out places in one block of memory, each at a multiple of 256 bytes, and copies into them
// once there is one: what is copied stays until the stream is done or this goes. Without a block it
// counts.
class Places {
 public:
  Places(const model::NamedTensors& parameters, char* block, cuda::Stream stream)
      : block_(block), stream_(stream) {
    for (const auto& [name, tensor] : parameters) tensors_[name] = &tensor;
  }
  size_t bytes() const { return bytes_; }

  template <class T>
  const T* Put(const at::Tensor& tensor) {
    kept_.push_back(tensor.contiguous());
    return static_cast<const T*>(Put({&kept_.back()}));
  }
  // Of these names one behind the other; nullptr when the model has none of them.
  template <class T>
  const T* Named(const std::vector<std::string>& names) {
    std::vector<const at::Tensor*> parts;
    for (const std::string& name : names) {
      const auto found = tensors_.find(name);
      if (found != tensors_.end()) parts.push_back(found->second);
    }
    return parts.empty() ? nullptr : static_cast<const T*>(Put(parts));
  }

 private:
  const void* Put(const std::vector<const at::Tensor*>& parts) {
    char* const to = block_ + bytes_;
    size_t size = 0;
    for (const at::Tensor* part : parts) {
      if (block_ != nullptr)
        cuda::CopyToDevice(to + size, part->const_data_ptr(), part->nbytes(), stream_);
      size += part->nbytes();
    }
    bytes_ += (size + 255) / 256 * 256;
    return to;
  }

  char* block_;
  cuda::Stream stream_;
  size_t bytes_ = 0;
  std::map<std::string, const at::Tensor*> tensors_;
  std::list<at::Tensor> kept_;  // what is copied and belongs to nobody else
};

template <class Stored>
DeviceLayer<Stored> PutLayer(int index, Places& places) {
  const std::string at = absl::StrFormat("model.layers.%d.", index), mix = at + "self_attn.",
                    mlp = at + "mlp.";
  const auto one = [&](const std::string& name) { return places.Named<Stored>({name}); };
  const auto qkv = [&](const char* what) {
    return places.Named<Stored>(
        {mix + "q_proj" + what, mix + "k_proj" + what, mix + "v_proj" + what});
  };
  const auto gate_up = [&](const char* what) {
    return places.Named<Stored>({mlp + "gate_proj" + what, mlp + "up_proj" + what});
  };
  return {.input_norm = one(at + "input_layernorm.weight"),
          .mlp_norm = one(at + "post_attention_layernorm.weight"),
          .q_norm = one(mix + "q_norm.weight"),
          .k_norm = one(mix + "k_norm.weight"),
          .qkv = qkv(".weight"),
          .qkv_bias = qkv(".bias"),
          .output = one(mix + "o_proj.weight"),
          .output_bias = one(mix + "o_proj.bias"),
          .gate_up = gate_up(".weight"),
          .gate_up_bias = gate_up(".bias"),
          .down = one(mlp + "down_proj.weight"),
          .down_bias = one(mlp + "down_proj.bias")};
}

template <class Stored>
void PutAll(const model::Decoder& decoder, Places& places, DeviceWeights<Stored>& weights) {
  weights.embedding = places.Named<Stored>({"model.embed_tokens.weight"});
  weights.head = decoder.config().tied_embeddings ? weights.embedding
                                                  : places.Named<Stored>({"lm_head.weight"});
  weights.final_norm = places.Named<Stored>({"model.norm.weight"});
  weights.frequencies = places.Put<float>(model::RopeFrequencies(decoder.config(), false));
  weights.layers.clear();
  for (int i = 0; i < decoder.config().layers; ++i)
    weights.layers.push_back(PutLayer<Stored>(i, places));
}

}  // namespace

template <class Stored>
std::unique_ptr<DeviceWeights<Stored>> CopyWeights(const model::Decoder& decoder) {
  auto weights = std::make_unique<DeviceWeights<Stored>>();
  Places counted(decoder.Parameters(), nullptr, nullptr);
  PutAll(decoder, counted, *weights);
  const cuda::OwnedStream stream;
  weights->memory = cuda::DeviceMemory(counted.bytes());
  Places places(decoder.Parameters(), weights->memory.template as<char>(), stream.get());
  PutAll(decoder, places, *weights);
  cuda::Wait(stream.get());
  return weights;
}

template std::unique_ptr<DeviceWeights<float>> CopyWeights(const model::Decoder&);
template std::unique_ptr<DeviceWeights<BFloat16>> CopyWeights(const model::Decoder&);

}  // namespace palimpsest::inference
