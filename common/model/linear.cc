#include "common/model/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// oneDNN's product, which torch itself asks for bf16 alone: null where it is not there or the
// processor has no AVX-512. MKL, which torch asks for fp32, uses half of a register of AMD's.
using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                             std::string_view, c10::List<std::optional<at::Scalar>>,
                             std::optional<std::string_view>);
std::optional<c10::TypedOperatorHandle<Pointwise>> FindOneDnn() {
  if (!__builtin_cpu_supports("avx512f")) return std::nullopt;
  const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (!found) return std::nullopt;
  return found->typed<Pointwise>();
}

constexpr int64_t kEnough = int64_t{1} << 21;  // multiply-adds; fewer are done before it has begun

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
    return Multiply(x, weight, bias.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor grad = output_grads[0];
    variable_list grads(3);  // x, weight, bias, then the leaves
    if (ctx->needs_input_grad(0)) grads[0] = Multiply(grad, weight.t());
    const std::vector<int64_t> rows = ctx->saved_data["rows"].toIntVector();
    const std::vector<int64_t> ranks = ctx->saved_data["ranks"].toIntVector();
    grads.resize(3 + rows.size());
    if (!ctx->saved_data["leaves_need"].toBool()) return grads;
    const at::Tensor of_weight = Multiply(grad.t(), x.t());
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

at::Tensor Multiply(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  static const auto one_dnn = FindOneDnn();
  // Its product has no derivative.
  const bool learnt = c10::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad());
  const bool single = x.scalar_type() == at::kFloat && w.scalar_type() == at::kFloat;
  const std::optional<at::Tensor> given = bias.defined() ? std::optional(bias) : std::nullopt;
  if (!one_dnn || learnt || !single || !x.is_cpu() || x.size(0) * w.numel() < kEnough)
    return at::linear(x, w, given);
  return one_dnn->call(x, w, given, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor Multiply(const at::Tensor& x, const at::Tensor& w) { return Multiply(x, w, {}); }

at::Tensor FusedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       const std::vector<at::Tensor>& leaves) {
  if (!c10::GradMode::is_enabled()) return Multiply(x, weight, bias);
  const std::optional<at::Tensor> given = bias.defined() ? std::optional(bias) : std::nullopt;
  return FusedLinearFunction::apply(x, weight, given, at::TensorList(leaves));
}

}  // namespace palimpsest::model
