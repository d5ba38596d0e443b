#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "common/attention/match_again_torch.h"
#include "common/attention/rows_torch.h"

namespace palimpsest::attention {
namespace {

using compaction::Fit;
using compaction::GradientMode;
using compaction::MatchWindow;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a fit is made of but for the tensors that gradients go to.
struct Matching : torch::CustomClassHolder {
  Matching(compaction::LocalSoftmax l, compaction::WindowBatch w, compaction::Kept k,
           compaction::Numerics m, at::Tensor r)
      : local(std::move(l)),
        window(std::move(w)),
        kept(std::move(k)),
        numerics(std::move(m)),
        rows(std::move(r)) {}

  compaction::LocalSoftmax local;  // until the forward pass is done
  compaction::WindowBatch window;  // then without keys, values, bias and queries
  compaction::Kept kept;
  compaction::Numerics numerics;
  at::Tensor rows;
  Fit fit;  // of the forward pass, until it is taken
};

struct MatchFunction : torch::autograd::Function<MatchFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& keys,
                               const at::Tensor& values, const at::Tensor& bias,
                               const at::Tensor& flat, c10::intrusive_ptr<Matching> m) {
    m->fit = MatchWindow(std::exchange(m->local, {}), m->window, m->kept, m->numerics,
                         GradientMode::kDetached);
    m->window.keys = m->window.values = m->window.bias = m->window.queries = at::Tensor();
    ctx->save_for_backward({keys, values, bias, flat});
    ctx->saved_data["matching"] = c10::IValue::make_capsule(m);
    return {m->fit.bias, m->fit.values};
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const auto m =
        c10::static_intrusive_pointer_cast<Matching>(ctx->saved_data["matching"].toCapsule());
    variable_list leaves, wanted;
    for (const at::Tensor& saved : ctx->get_saved_variables()) {
      const bool needed = ctx->needs_input_grad(leaves.size());
      leaves.push_back(saved.detach().requires_grad_(needed));
      if (needed) wanted.push_back(leaves.back());
    }
    const c10::AutoGradMode with_grad(true);
    compaction::WindowBatch window = m->window;
    window.keys = leaves[0];
    window.values = leaves[1];
    window.bias = leaves[2];
    window.queries = m->rows.defined()
                         ? GatherRowsWithGrad(leaves[3], leaves[3].slice(0, 0, 0), m->rows)
                         : leaves[3];
    const Fit fit =
        MatchWindow(ScoreWindow(window), window, m->kept, m->numerics, GradientMode::kFull);
    variable_list found =
        torch::autograd::grad({fit.bias, fit.values}, wanted, output_grads, /*retain_graph=*/false,
                              /*create_graph=*/false, /*allow_unused=*/true);
    variable_list grads(leaves.size() + 1);  // none for the matching
    for (size_t i = 0, next = 0; i < leaves.size(); ++i) {
      if (ctx->needs_input_grad(i)) grads[i] = std::move(found[next++]);
    }
    return grads;
  }
};

}  // namespace

Fit MatchAgain(compaction::LocalSoftmax local, compaction::WindowBatch window,
               compaction::Kept kept, compaction::Numerics numerics,
               const ReferenceRows& references) {
  const at::Tensor keys = window.keys, values = window.values, bias = window.bias;
  const auto matching = c10::make_intrusive<Matching>(
      std::move(local), std::move(window), std::move(kept), std::move(numerics), references.rows);
  const variable_list out = MatchFunction::apply(keys, values, bias, references.flat, matching);
  Fit fit = std::exchange(matching->fit, {});
  fit.bias = out[0];
  fit.values = out[1];
  return fit;
}

}  // namespace palimpsest::attention
