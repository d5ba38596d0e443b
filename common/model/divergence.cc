#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "common/model/divergence_torch.h"
#include "common/model/head.h"
#include "common/model/head_torch.h"

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct DivergenceFunction : torch::autograd::Function<DivergenceFunction> {
  // Returns {to_other, from_other, acceptance}, [N] each.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& weight, const at::Tensor& other,
                               double temperature, int64_t chunk_rows) {
    const int64_t n = hidden.size(0);
    const at::TensorOptions wide = hidden.options().dtype(WideType(weight));
    const at::Tensor to_other = at::empty({n}, wide), from_other = at::empty({n}, wide),
                     acceptance = at::empty({n}, wide);
    for (int64_t row = 0; row < n; row += chunk_rows) {
      const auto part = [&](const at::Tensor& x) {
        return x.narrow(0, row, std::min(chunk_rows, n - row));
      };
      at::Tensor log_ratio = HeadLogProbs(part(hidden), weight, temperature);
      at::Tensor q = HeadLogProbs(part(other), weight, temperature);
      at::Tensor p = log_ratio.exp();
      log_ratio.sub_(q);
      q.exp_();
      part(acceptance).copy_(at::minimum(p, q).sum(1));
      part(to_other).copy_(p.mul_(log_ratio).sum(1));
      part(from_other).copy_(q.mul_(log_ratio).sum(1).neg_());
    }
    ctx->save_for_backward({hidden, weight, other, to_other});
    ctx->mark_non_differentiable({acceptance});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk_rows"] = chunk_rows;
    return {to_other, from_other, acceptance};
  }

  // With z = logits / temperature of the hidden rows and K = KL(p || q):
  //   dKL(p || q) / dz_j = p_j (log p_j - log q_j - K),   dKL(q || p) / dz_j = p_j - q_j.
  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &other = saved[2],
                     &to_other = saved[3];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const auto gradient_of = [&](int64_t row, const at::Tensor& rows) {
      const auto part = [&](const at::Tensor& x) { return x.narrow(0, row, rows.size(0)); };
      const at::Tensor pull_to = part(output_grads[0]).unsqueeze(1);
      const at::Tensor pull_from = part(output_grads[1]).unsqueeze(1);
      at::Tensor grad = HeadLogProbs(rows, weight, temperature);
      at::Tensor q = HeadLogProbs(part(other), weight, temperature);
      const at::Tensor p = grad.exp();
      grad.sub_(q).sub_(part(to_other).unsqueeze(1)).mul_(pull_to).add_(pull_from).mul_(p);
      return grad.sub_(q.exp_().mul_(pull_from)).div_(temperature);
    };
    const HeadGradients of =
        PullThroughHead(hidden, weight, ctx->saved_data["chunk_rows"].toInt(),
                        ctx->needs_input_grad(0), ctx->needs_input_grad(1), gradient_of);
    return {of.hidden, of.weight, {}, {}, {}};
  }
};

}  // namespace

RowDivergence CompareRows(const Decoder& decoder, const at::Tensor& hidden, const at::Tensor& other,
                          double temperature, int64_t chunk_rows) {
  const variable_list all = DivergenceFunction::apply(hidden, decoder.HeadWeight(), other.detach(),
                                                      temperature, chunk_rows);
  return {all[0], all[1], all[2]};
}

}  // namespace palimpsest::model
