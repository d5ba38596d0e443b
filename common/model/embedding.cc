#include "common/model/embedding.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids) {
    ctx->save_for_backward({ids});
    ctx->saved_data["rows"] = table.size(0);
    return at::embedding(table, ids);
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const at::Tensor& grad = output_grads[0];
    const at::Tensor wide = grad.scalar_type() == at::kDouble ? grad : grad.to(at::kFloat);
    return {at::embedding_dense_backward(wide, ctx->get_saved_variables()[0],
                                         ctx->saved_data["rows"].toInt(), /*padding_idx=*/-1,
                                         /*scale_grad_by_freq=*/false),
            {}};
  }
};

}  // namespace

at::Tensor EmbeddingRows(const at::Tensor& table, const at::Tensor& ids) {
  return EmbeddingFunction::apply(table, ids);
}

}  // namespace palimpsest::model
