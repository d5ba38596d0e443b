#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "common/attention/held_prompt_torch.h"
#include "common/attention/rows_torch.h"

namespace palimpsest::attention {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

c10::intrusive_ptr<Lent> LentOf(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Lent>(ctx->saved_data["lent"].toCapsule());
}

// (anchor) -> (anchor, values...)
struct BorrowFunction : torch::autograd::Function<BorrowFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& anchor,
                               c10::intrusive_ptr<Lent> lent) {
    variable_list out = {anchor};
    for (const at::Tensor& value : lent->values) out.push_back(value.detach());
    ctx->saved_data["lent"] = c10::IValue::make_capsule(std::move(lent));
    ctx->set_materialize_grads(false);
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const c10::intrusive_ptr<Lent> lent = LentOf(ctx);
    for (size_t i = 0; i < lent->values.size(); ++i) {
      const at::Tensor& found = grads[i + 1];
      at::Tensor& sum = lent->sums[i];
      if (found.defined()) sum = sum.defined() ? sum.add_(Wide(found)) : Wide(found).clone();
    }
    return {grads[0], at::Tensor()};
  }
};

// o, whose backward pass also hands the sums to what was lent.
struct ReturnFunction : torch::autograd::Function<ReturnFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& o, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, c10::intrusive_ptr<Lent> lent) {
    ctx->saved_data["lent"] = c10::IValue::make_capsule(std::move(lent));
    return o;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const c10::intrusive_ptr<Lent> lent = LentOf(ctx);
    variable_list found = {grads[0]};
    for (size_t i = 0; i < lent->values.size(); ++i) {
      const at::Tensor& sum = lent->sums[i];
      found.push_back(sum.defined() ? sum.to(lent->values[i].scalar_type()) : at::Tensor());
    }
    found.emplace_back();
    return found;
  }
};

}  // namespace

std::vector<at::Tensor> Borrow(const c10::intrusive_ptr<Lent>& lent, at::Tensor& anchor) {
  const variable_list out = BorrowFunction::apply(anchor, lent);
  anchor = out.front();
  return {out.begin() + 1, out.end()};
}

at::Tensor HoldingContext::Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v) {
  const at::Tensor o = replay_.Attend(layer, q, k, v);
  if (layer == static_cast<int>(held_.layers.size())) {
    // Views of what autograd keeps; where it keeps nothing, of no more than is lent.
    const auto lend = [](const at::Tensor& x) {
      return c10::GradMode::is_enabled() ? x.detach() : x.contiguous();
    };
    held_.layers.push_back(
        c10::make_intrusive<Lent>(std::vector<at::Tensor>{lend(q), lend(k), lend(v)}));
  }
  if (!c10::GradMode::is_enabled()) return o;
  return ReturnFunction::apply(o, q, k, v, held_.layers[static_cast<size_t>(layer)]);
}

}  // namespace palimpsest::attention
