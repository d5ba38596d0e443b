#include "common/model/linear.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct FusedLinearFunction : torch::autograd::Function<FusedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, at::TensorList leaves) {
    ctx->save_for_backward({x, weight});
    std::vector<int64_t> rows;  // of each leaf; weights and biases told apart by rank
    std::vector<int64_t> ranks;
    for (const at::Tensor& leaf : leaves) {
      rows.push_back(leaf.size(0));
      ranks.push_back(leaf.dim());
    }
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["ranks"] = ranks;
    ctx->saved_data["leaves_need"] = std::any_of(
        leaves.begin(), leaves.end(), [](const at::Tensor& leaf) { return leaf.requires_grad(); });
    return at::linear(x, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor grad = output_grads[0];
    variable_list grads(3);  // x, weight, bias, then the leaves
    if (ctx->needs_input_grad(0)) grads[0] = grad.matmul(weight);
    const std::vector<int64_t> rows = ctx->saved_data["rows"].toIntVector();
    const std::vector<int64_t> ranks = ctx->saved_data["ranks"].toIntVector();
    grads.resize(3 + rows.size());
    if (!ctx->saved_data["leaves_need"].toBool()) return grads;
    const at::Tensor of_weight = grad.t().matmul(x);
    int64_t weight_row = 0;
    int64_t bias_row = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (ranks[i] == 2) {
        grads[3 + i] = of_weight.narrow(0, weight_row, rows[i]);
        weight_row += rows[i];
      } else {
        grads[3 + i] = grad.narrow(1, bias_row, rows[i]).sum(0);
        bias_row += rows[i];
      }
    }
    return grads;
  }
};

}  // namespace

at::Tensor FusedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       const std::vector<at::Tensor>& leaves) {
  const std::optional<at::Tensor> given = bias.defined() ? std::optional(bias) : std::nullopt;
  if (!c10::GradMode::is_enabled()) return at::linear(x, weight, given);
  return FusedLinearFunction::apply(x, weight, given, at::TensorList(leaves));
}

}  // namespace palimpsest::model
