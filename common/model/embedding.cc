#include "common/model/embedding.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "common/model/layer_keeper.h"

namespace palimpsest::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Autograd would remember the table's version, and it comes and goes.
struct KeptTable : torch::CustomClassHolder {
  KeptTable(LayerKeeper* k, at::Tensor t) : keeper(k), table(std::move(t)) {}
  LayerKeeper* keeper;  // may be null
  at::Tensor table;
};

struct EmbeddingFunction : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids,
                            LayerKeeper* keeper) {
    ctx->save_for_backward({ids});
    ctx->saved_data["kept"] =
        c10::IValue::make_capsule(c10::make_intrusive<KeptTable>(keeper, table));
    const LayerHold hold(keeper, kEmbedding);
    return at::embedding(table, ids);
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    const at::Tensor& grad = output_grads[0];
    const at::Tensor wide = grad.scalar_type() == at::kDouble ? grad : grad.to(at::kFloat);
    const auto kept =
        c10::static_intrusive_pointer_cast<KeptTable>(ctx->saved_data["kept"].toCapsule());
    const at::Tensor found =
        at::embedding_dense_backward(wide, ctx->get_saved_variables()[0], kept->table.size(0),
                                     /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
    if (kept->keeper == nullptr) return {found, {}, {}};
    kept->keeper->Found(kEmbedding, {kept->table}, {found});
    return {at::Tensor(), {}, {}};
  }
};

}  // namespace

at::Tensor EmbeddingRows(const at::Tensor& table, const at::Tensor& ids, LayerKeeper* keeper) {
  return EmbeddingFunction::apply(table, ids, keeper);
}

}  // namespace palimpsest::model
