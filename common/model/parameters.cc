#include "common/model/parameters.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/random.h"

namespace palimpsest::model {
namespace {

class SpecList {
 public:
  void Linear(const std::string& name, int64_t out, int64_t in, bool bias, double scale = 1) {
    specs_.push_back({name + ".weight", {out, in}, 0, scale / std::sqrt(static_cast<double>(in))});
    if (bias) specs_.push_back({name + ".bias", {out}, 0, 0});
  }
  void Norm(const std::string& name, int64_t width) {
    specs_.push_back({name + ".weight", {width}, 1, 0});
  }
  void Table(const std::string& name, int64_t rows, int64_t width, double std) {
    specs_.push_back({name, {rows, width}, 0, std});
  }
  std::vector<ParameterSpec> Take() && { return std::move(specs_); }

 private:
  std::vector<ParameterSpec> specs_;
};

void AddLayer(const ModelConfig& c, int layer, SpecList& list) {
  const std::string at = absl::StrFormat("model.layers.%d.", layer);
  const int64_t q_width = int64_t{c.heads} * c.head_dim;
  const int64_t kv_width = int64_t{c.kv_heads} * c.head_dim;
  const double residual = 1 / std::sqrt(2.0 * c.layers);  // two writers to the stream per layer
  list.Norm(at + "input_layernorm", c.hidden);
  list.Linear(at + "self_attn.q_proj", q_width, c.hidden, c.attention_bias);
  list.Linear(at + "self_attn.k_proj", kv_width, c.hidden, c.attention_bias);
  list.Linear(at + "self_attn.v_proj", kv_width, c.hidden, c.attention_bias);
  if (c.architecture == Architecture::kQwen3) {
    list.Norm(at + "self_attn.q_norm", c.head_dim);
    list.Norm(at + "self_attn.k_norm", c.head_dim);
  }
  list.Linear(at + "self_attn.o_proj", c.hidden, q_width, c.output_bias, residual);
  list.Norm(at + "post_attention_layernorm", c.hidden);
  list.Linear(at + "mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias);
  list.Linear(at + "mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias);
  list.Linear(at + "mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias, residual);
}

}  // namespace

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& c) {
  SpecList list;
  const double by_width = 1 / std::sqrt(static_cast<double>(c.hidden));
  list.Table("model.embed_tokens.weight", c.vocab, c.hidden, c.tied_embeddings ? by_width : 0.5);
  for (int layer = 0; layer < c.layers; ++layer) AddLayer(c, layer, list);
  list.Norm("model.norm", c.hidden);
  if (!c.tied_embeddings) list.Linear("lm_head", c.vocab, c.hidden, /*bias=*/false);
  return std::move(list).Take();
}

void FillRandom(const ParameterSpec& spec, uint64_t seed, at::Tensor& tensor) {
  c10::NoGradGuard no_grad;
  if (spec.init_std == 0) {
    tensor.fill_(spec.init_mean);
    return;
  }
  RandomStream stream(MixSeed({seed, Meaning("weights"), Meaning(spec.name)}));
  at::Tensor draws = at::empty(spec.shape, at::kDouble);
  double* out = draws.mutable_data_ptr<double>();
  for (int64_t i = 0; i < draws.numel(); ++i) {
    out[i] = spec.init_mean + spec.init_std * stream.Normal();
  }
  tensor.copy_(draws);
}

}  // namespace palimpsest::model
