#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "common/attention/match_again_torch.h"
#include "common/attention/rows_torch.h"

namespace palimpsest::attention {
namespace {

using compaction::Fit;
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
    m->fit = MatchWindow(std::exchange(m->local, {}), m->window, m->kept, m->numerics);
    m->window.keys = m->window.values = m->window.bias = m->window.queries = at::Tensor();
    ctx->save_for_backward({keys, values, bias, flat});
    ctx->saved_data["matching"] = c10::IValue::make_capsule(m);
    return {m->fit.bias, m->fit.values};
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const auto m =
        c10::static_intrusive_pointer_cast<Matching>(ctx->saved_data["matching"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& flat = saved[3];
    compaction::WindowBatch window = m->window;
    window.keys = saved[0];
    window.values = saved[1];
    window.bias = saved[2];
    window.queries =
        m->rows.defined() ? GatherRows(flat.detach(), flat.slice(0, 0, 0), m->rows) : flat;
    const compaction::WindowGradients g =
        compaction::MatchGradients(window, m->kept, m->numerics, output_grads[0], output_grads[1]);
    at::Tensor queries;
    if (m->rows.defined() && ctx->needs_input_grad(3)) {
      at::Tensor sums = at::zeros(flat.sizes(), g.queries.options()), none = sums.slice(0, 0, 0);
      ScatterAddRows(g.queries.view({-1, flat.size(1)}), m->rows, sums, none);
      queries = sums.to(flat.scalar_type());
    }
    return {g.keys.to(saved[0].scalar_type()),
            g.values.to(saved[1].scalar_type()),
            g.bias.to(saved[2].scalar_type()),
            queries,
            {}};
  }
};

struct StraightThroughFunction : torch::autograd::Function<StraightThroughFunction> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& value, const at::Tensor&) {
    return value.clone();
  }
  static variable_list backward(AutogradContext*, variable_list grads) { return {{}, grads[0]}; }
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

at::Tensor StraightThrough(const at::Tensor& value, const at::Tensor& target) {
  return StraightThroughFunction::apply(value.detach(), target);
}

}  // namespace palimpsest::attention
