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

// Where a pass leaves the log-probabilities of its last chunk for the way back, [n, V].
constexpr char kLastChunk[] = "last_chunk";

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
        ForEachRowBlock(logp, [&](int64_t first, const at::Tensor& block) {
          const at::Tensor terms = block.exp().mul_(block);
          entropy.narrow(0, row + first, block.size(0)).copy_(terms.sum(1).neg_());
        });
      }
      if (row + rows == n) ctx->saved_data[kLastChunk] = logp;
    }
    ctx->set_materialize_grads(false);
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
                     &entropy = saved[3], &of_entropy = output_grads[1];
    const double temperature = ctx->saved_data["temperature"].toDouble();
    const at::Tensor of_chosen = output_grads[0].defined()
                                     ? output_grads[0]
                                     : at::zeros({hidden.size(0)}, entropy.options());
    // Each row's log-probabilities become its gradient where they stand.
    const auto gradient_of = [&](int64_t row, const at::Tensor& rows) {
      const at::Tensor logp = LogProbsOf(ctx, row, rows, hidden.size(0), weight, temperature);
      ForEachRowBlock(logp, [&](int64_t first, const at::Tensor& block) {
        const auto part = [&](const at::Tensor& x) {
          return x.narrow(0, row + first, block.size(0)).unsqueeze(1);
        };
        const at::Tensor pull = part(of_chosen);
        if (of_entropy.defined() && entropy.numel() > 0) {
          const at::Tensor p = block.exp();
          block.add_(part(entropy)).mul_(part(of_entropy)).add_(pull).mul_(p).neg_();
        } else {
          block.exp_().mul_(-pull);
        }
        block.scatter_add_(1, part(targets), pull).div_(temperature);
      });
      return logp;
    };
    const HeadGradients of =
        PullThroughHead(hidden, weight, ctx->saved_data["chunk_rows"].toInt(),
                        ctx->needs_input_grad(0), ctx->needs_input_grad(1), gradient_of);
    return {of.hidden, of.weight, {}, {}, {}, {}};
  }

  // Those of the last chunk are taken from the pass, once: they are overwritten.
  static at::Tensor LogProbsOf(AutogradContext* ctx, int64_t row, const at::Tensor& rows,
                               int64_t all_rows, const at::Tensor& weight, double temperature) {
    const auto kept = ctx->saved_data.find(kLastChunk);
    if (row + rows.size(0) < all_rows || kept == ctx->saved_data.end())
      return HeadLogProbs(rows, weight, temperature);
    const at::Tensor logp = kept->second.toTensor();
    ctx->saved_data.erase(kept);
    return logp;
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
