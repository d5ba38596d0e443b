#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "common/model/recompute_torch.h"

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Again : torch::CustomClassHolder {
  Again(Block b, std::vector<at::Tensor> l, LayerKeeper* k, int i)
      : block(std::move(b)), leaves(std::move(l)), keeper(k), layer(i) {}
  Block block;
  std::vector<at::Tensor> leaves;
  LayerKeeper* keeper;  // may be null
  int layer;
};

struct RecomputedFunction : torch::autograd::Function<RecomputedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList,
                            c10::intrusive_ptr<Again> again) {
    ctx->save_for_backward({x});
    ctx->saved_data["again"] = c10::IValue::make_capsule(again);
    const LayerHold hold(again->keeper, again->layer);
    return again->block(x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const auto again =
        c10::static_intrusive_pointer_cast<Again>(ctx->saved_data["again"].toCapsule());
    const at::Tensor x = ctx->get_saved_variables()[0].detach();
    x.requires_grad_(ctx->needs_input_grad(0));
    variable_list inputs = {x}, wanted;
    inputs.insert(inputs.end(), again->leaves.begin(), again->leaves.end());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (ctx->needs_input_grad(i)) wanted.push_back(inputs[i]);
    }
    const LayerHold hold(again->keeper, again->layer);
    const c10::AutoGradMode with_grad(true);
    variable_list found =
        torch::autograd::grad({again->block(x)}, wanted, output_grads, /*retain_graph=*/false,
                              /*create_graph=*/false, /*allow_unused=*/true);
    variable_list grads(inputs.size() + 1);  // none for the block
    for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
      if (ctx->needs_input_grad(i)) grads[i] = std::move(found[next++]);
    }
    if (again->keeper == nullptr) return grads;
    again->keeper->Found(again->layer, again->leaves, {grads.begin() + 1, grads.end() - 1});
    for (size_t i = 1; i < grads.size(); ++i) grads[i] = at::Tensor();
    return grads;
  }
};

}  // namespace

at::Tensor Recomputed(Block block, const at::Tensor& x, const std::vector<at::Tensor>& leaves,
                      LayerKeeper* keeper, int layer) {
  return RecomputedFunction::apply(
      x, at::TensorList(leaves),
      c10::make_intrusive<Again>(std::move(block), leaves, keeper, layer));
}

}  // namespace palimpsest::model
