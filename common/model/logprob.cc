#include "common/model/logprob.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "common/model/head.h"
#include "common/model/head_torch.h"

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LogProbFunction : torch::autograd::Function<LogProbFunction> {
  // Returns {log probabilities [N], entropies [N] (empty unless wanted)}.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden,
                               const at::Tensor& weight, const at::Tensor& targets,
                               double temperature, int64_t chunk_rows, bool want_entropy) {
    const int64_t n = hidden.size(0);
    const at::TensorOptions wide = hidden.options().dtype(WideType(weight));
    const at::Tensor chosen = at::empty({n}, wide);
    const at::Tensor entropy = at::empty({want_entropy ? n : 0}, wide);
    for (int64_t row = 0; row < n; row += chunk_rows) {
      const int64_t rows = std::min(chunk_rows, n - row);
      const at::Tensor logp = HeadLogProbs(hidden.narrow(0, row, rows), weight, temperature);
      const at::Tensor target = targets.narrow(0, row, rows).unsqueeze(1);
      chosen.narrow(0, row, rows).copy_(logp.gather(1, target).squeeze(1));
      if (want_entropy) {
        entropy.narrow(0, row, rows).copy_(logp.exp().mul_(logp).sum(1).neg_());
      }
    }
    ctx->save_for_backward({hidden, weight, targets, entropy});
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["chunk_rows"] = chunk_rows;
    return {chosen, entropy};
  }

  // With p = softmax(z), z = logits / temperature, H the entropy:
  //   d logp_t / dz_j = [j = t] - p_j,   dH / dz_j = -p_j (log p_j + H).
  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &targets = saved[2],
                     &entropy = saved[3];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const auto gradient_of = [&](int64_t row, const at::Tensor& rows) {
      const auto part = [&](const at::Tensor& x) { return x.narrow(0, row, rows.size(0)); };
      const at::Tensor of_chosen = part(output_grads[0]).unsqueeze(1);
      at::Tensor logp = HeadLogProbs(rows, weight, temperature);
      at::Tensor p = logp.exp();
      at::Tensor grad;
      if (entropy.numel() > 0) {
        const at::Tensor pull = part(output_grads[1]).unsqueeze(1);
        logp.add_(part(entropy).unsqueeze(1)).mul_(pull).add_(of_chosen);
        grad = p.mul_(logp).neg_();
      } else {
        grad = p.mul_(-of_chosen);
      }
      return grad.scatter_add_(1, part(targets).unsqueeze(1), of_chosen).div_(temperature);
    };
    const HeadGradients of =
        PullThroughHead(hidden, weight, ctx->saved_data["chunk_rows"].toInt(),
                        ctx->needs_input_grad(0), ctx->needs_input_grad(1), gradient_of);
    return {of.hidden, of.weight, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor TokenLogProbs(const Decoder& decoder, const at::Tensor& hidden,
                         const at::Tensor& targets, double temperature, int64_t chunk_rows) {
  return LogProbFunction::apply(hidden, decoder.HeadWeight(), targets, temperature, chunk_rows,
                                false)[0];
}

std::pair<at::Tensor, at::Tensor> TokenLogProbsAndEntropy(const Decoder& decoder,
                                                          const at::Tensor& hidden,
                                                          const at::Tensor& targets,
                                                          double temperature, int64_t chunk_rows) {
  const variable_list both =
      LogProbFunction::apply(hidden, decoder.HeadWeight(), targets, temperature, chunk_rows, true);
  return {both[0], both[1]};
}

}  // namespace palimpsest::model
