#include "common/model/decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <map>

#include "absl/strings/str_format.h"
#include "common/model/embedding.h"
#include "common/model/head.h"
#include "common/model/linear.h"
#include "common/model/parameters.h"
#include "common/model/recompute_torch.h"
#include "common/model/rope.h"
#include "common/model/row_pass_torch.h"

namespace palimpsest::model {
namespace {

// Rows up to which the row kernels are quicker than the library's fp32 products
// (tests/bench/rows_bench). In bf16 they always are.
constexpr int64_t kFewRows = 32;

at::ScalarType ScalarTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat64:
      return at::kDouble;
    case DType::kFloat32:
      break;
  }
  return at::kFloat;
}

at::Tensor Linear(const at::Tensor& x, const Affine& map) {
  std::vector<at::Tensor> leaves = {map.weight};
  if (map.bias.defined()) leaves.push_back(map.bias);
  return FusedLinear(x, map.weight.detach(), map.bias.defined() ? map.bias.detach() : at::Tensor(),
                     leaves);
}

at::Tensor Fused(const at::Tensor& x, const Projection& map) {
  return FusedLinear(x, map.weight, map.bias, map.leaves);
}

// Gives out the storage of the parameters by name.
class Allocator {
 public:
  Allocator(const std::vector<ParameterSpec>& specs, at::ScalarType type) : type_(type) {
    for (const ParameterSpec& spec : specs) shapes_[spec.name] = spec.shape;
  }

  // Undefined when the model has no such tensor.
  at::Tensor One(const std::string& name) {
    const auto shape = shapes_.find(name);
    if (shape == shapes_.end()) return {};
    return made_[name] = at::empty(shape->second, type_);
  }

  Affine Map(const std::string& name) { return {One(name + ".weight"), One(name + ".bias")}; }

  Projection Fused(const std::vector<std::string>& names) {
    Projection made;
    made.weight = Stack(names, ".weight", made.leaves);
    made.bias = Stack(names, ".bias", made.leaves);
    return made;
  }

  const at::Tensor& made(const std::string& name) const { return made_.at(name); }

 private:
  at::Tensor Stack(const std::vector<std::string>& names, const std::string& suffix,
                   std::vector<at::Tensor>& leaves) {
    if (!shapes_.contains(names.front() + suffix)) return {};
    std::vector<int64_t> shape = shapes_.at(names.front() + suffix);
    shape[0] = 0;
    for (const std::string& name : names) shape[0] += shapes_.at(name + suffix)[0];
    const at::Tensor all = at::empty(shape, type_);
    int64_t row = 0;
    for (const std::string& name : names) {
      const int64_t rows = shapes_.at(name + suffix)[0];
      leaves.push_back(made_[name + suffix] = all.narrow(0, row, rows).detach());
      row += rows;
    }
    return all;
  }

  at::ScalarType type_;
  std::map<std::string, std::vector<int64_t>> shapes_;
  std::map<std::string, at::Tensor> made_;
};

Layer MakeLayer(int index, Allocator& allocator) {
  const std::string at = absl::StrFormat("model.layers.%d.", index);
  Layer layer;
  layer.input_norm = allocator.One(at + "input_layernorm.weight");
  layer.mlp_norm = allocator.One(at + "post_attention_layernorm.weight");
  layer.q_norm = allocator.One(at + "self_attn.q_norm.weight");
  layer.k_norm = allocator.One(at + "self_attn.k_norm.weight");
  layer.qkv =
      allocator.Fused({at + "self_attn.q_proj", at + "self_attn.k_proj", at + "self_attn.v_proj"});
  layer.output = allocator.Map(at + "self_attn.o_proj");
  layer.gate_up = allocator.Fused({at + "mlp.gate_proj", at + "mlp.up_proj"});
  layer.down = allocator.Map(at + "mlp.down_proj");
  return layer;
}

// The parameters of a layer as autograd knows them.
std::vector<at::Tensor> LeavesOf(const Layer& layer) {
  std::vector<at::Tensor> leaves = {layer.input_norm,  layer.mlp_norm,      layer.q_norm,
                                    layer.k_norm,      layer.output.weight, layer.output.bias,
                                    layer.down.weight, layer.down.bias};
  for (const Projection* map : {&layer.qkv, &layer.gate_up}) {
    leaves.insert(leaves.end(), map->leaves.begin(), map->leaves.end());
  }
  std::erase_if(leaves, [](const at::Tensor& leaf) { return !leaf.defined(); });
  return leaves;
}

class TransformerDecoder final : public Decoder {
 public:
  TransformerDecoder(const ModelConfig& config, DType dtype, Kernels kernels)
      : config_(config),
        dtype_(dtype),
        kernels_(kernels),
        frequencies_(RopeFrequencies(config, dtype == DType::kFloat64)) {
    const std::vector<ParameterSpec> specs = ParameterSpecs(config);
    Allocator allocator(specs, ScalarTypeOf(dtype));
    embedding_ = allocator.One("model.embed_tokens.weight");
    for (int i = 0; i < config.layers; ++i) layers_.push_back(MakeLayer(i, allocator));
    final_norm_ = allocator.One("model.norm.weight");
    head_ = config.tied_embeddings ? embedding_ : allocator.One("lm_head.weight");
    for (const ParameterSpec& spec : specs) {
      parameters_.emplace_back(spec.name, allocator.made(spec.name));
    }
  }

  const ModelConfig& config() const override { return config_; }
  DType dtype() const override { return dtype_; }
  Kernels kernels() const override { return kernels_; }
  void SetActivations(Activations activations) override { activations_ = activations; }
  void SetLayerKeeper(LayerKeeper* keeper) override { keeper_ = keeper; }
  LayerKeeper* layer_keeper() const override { return keeper_; }
  const NamedTensors& Parameters() const override { return parameters_; }
  const at::Tensor& HeadWeight() const override { return head_; }
  at::Tensor Logits(const at::Tensor& hidden) const override {
    return ByRows(hidden.size(0)) ? LogitsByRows(hidden, head_) : HeadLogits(hidden, head_);
  }

  at::Tensor Hidden(const at::Tensor& ids, const at::Tensor& positions,
                    AttentionContext& attention) const override {
    if (ByRows(ids.size(0))) {
      return HiddenByRows({config_, embedding_, final_norm_, frequencies_, layers_}, ids, positions,
                          attention);
    }
    const bool recomputed = activations_ == Activations::kRecomputed && c10::GradMode::is_enabled();
    TORCH_CHECK(keeper_ == nullptr || recomputed || !c10::GradMode::is_enabled(),
                "layers that come and go need activations that are recomputed");
    if (keeper_ != nullptr) keeper_->Begin(recomputed);
    at::Tensor x = EmbeddingRows(embedding_, ids, keeper_);
    const auto [cos, sin] = RopeTables(positions, frequencies_.to(x.device()), x);
    for (int i = 0; i < config_.layers; ++i) {
      const auto layer = [this, i, cos = cos, sin = sin, &attention](const at::Tensor& rows) {
        return LayerRows(i, rows, cos, sin, attention);
      };
      if (recomputed) {
        x = Recomputed(layer, x, LeavesOf(layers_[i]), keeper_, i);
      } else {
        const LayerHold hold(keeper_, i);
        x = layer(x);
      }
    }
    return Norm(x, final_norm_);
  }

 private:
  bool ByRows(int64_t rows) const {
    if (c10::GradMode::is_enabled() || dtype_ == DType::kFloat64) return false;
    if (kernels_ == Kernels::kPlain || keeper_ != nullptr) return false;
    return kernels_ == Kernels::kFixed || dtype_ == DType::kBFloat16 || rows <= kFewRows;
  }

  // Statistics in fp32 for bf16 rows.
  at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight) const {
    return at::rms_norm(x, {x.size(-1)}, weight, config_.rms_norm_eps);
  }

  at::Tensor LayerRows(int index, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                       AttentionContext& attention) const {
    const Layer& layer = layers_[index];
    const at::Tensor mixed =
        x + AttentionPart(index, Norm(x, layer.input_norm), cos, sin, attention);
    const auto parts = Fused(Norm(mixed, layer.mlp_norm), layer.gate_up).chunk(2, -1);
    return mixed + Linear(at::silu(parts[0]) * parts[1], layer.down);
  }

  at::Tensor AttentionPart(int index, const at::Tensor& x, const at::Tensor& cos,
                           const at::Tensor& sin, AttentionContext& attention) const {
    const Layer& layer = layers_[index];
    const int64_t rows = x.size(0);
    const int64_t h = config_.heads;
    const int64_t hk = config_.kv_heads;
    const at::Tensor qkv = Fused(x, layer.qkv).view({rows, h + 2 * hk, config_.head_dim});
    const at::Tensor v = qkv.narrow(1, h + hk, hk);
    at::Tensor q, k;
    if (layer.q_norm.defined()) {
      q = Rotate(Norm(qkv.narrow(1, 0, h), layer.q_norm), cos, sin);
      k = Rotate(Norm(qkv.narrow(1, h, hk), layer.k_norm), cos, sin);
    } else {
      const at::Tensor both = Rotate(qkv.narrow(1, 0, h + hk), cos, sin);
      q = both.narrow(1, 0, h);
      k = both.narrow(1, h, hk);
    }
    const at::Tensor mixed = attention.Attend(index, q, k, v);
    return Linear(mixed.reshape({rows, h * config_.head_dim}), layer.output);
  }

  ModelConfig config_;
  DType dtype_;
  Kernels kernels_;
  Activations activations_ = Activations::kKept;
  LayerKeeper* keeper_ = nullptr;
  at::Tensor frequencies_;  // [d/2]
  at::Tensor embedding_, final_norm_, head_;
  std::vector<Layer> layers_;
  NamedTensors parameters_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const std::string& folder, DType dtype,
                                                       Kernels kernels) {
  ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(folder));
  std::unique_ptr<Decoder> decoder = std::make_unique<TransformerDecoder>(config, dtype, kernels);
  RETURN_IF_ERROR(decoder->LoadWeights(folder));
  return decoder;
}

std::unique_ptr<Decoder> Decoder::Random(const ModelConfig& config, uint64_t seed, DType dtype,
                                         Kernels kernels) {
  auto decoder = std::make_unique<TransformerDecoder>(config, dtype, kernels);
  const std::vector<ParameterSpec> specs = ParameterSpecs(config);
  for (size_t i = 0; i < specs.size(); ++i) {
    at::Tensor tensor = decoder->Parameters()[i].second;
    FillRandom(specs[i], seed, tensor);
  }
  return decoder;
}

}  // namespace palimpsest::model
