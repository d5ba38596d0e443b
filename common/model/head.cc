#include "common/model/head.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <vector>

#include "common/model/head_torch.h"
#include "common/model/linear.h"

namespace palimpsest::model {
namespace {

constexpr int64_t kBlock = 16384;  // rows of the weight at once: a product copies its operands
constexpr int64_t kCached = 128 * 1024;  // numbers that a core's own cache holds

template <class Fn>
void ForEachWideBlock(const at::Tensor& weight, Fn fn) {
  for (int64_t row = 0; row < weight.size(0); row += kBlock) {
    const int64_t rows = std::min(kBlock, weight.size(0) - row);
    fn(row, rows, weight.narrow(0, row, rows).to(WideType(weight)));
  }
}

}  // namespace

c10::ScalarType WideType(const at::Tensor& weight) {
  return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor HeadLogits(const at::Tensor& rows, const at::Tensor& weight) {
  const at::Tensor wide = rows.to(WideType(weight));
  if (weight.size(0) <= kBlock) return Multiply(wide, weight.to(WideType(weight)));
  const at::Tensor logits = at::empty({rows.size(0), weight.size(0)}, wide.options());
  ForEachWideBlock(weight, [&](int64_t token, int64_t tokens, const at::Tensor& block) {
    logits.narrow(1, token, tokens).copy_(Multiply(wide, block));
  });
  return logits;
}

void ForEachRowBlock(const at::Tensor& numbers,
                     const std::function<void(int64_t row, const at::Tensor& block)>& work) {
  const int64_t rows = numbers.size(0);
  const int64_t block = std::max<int64_t>(1, kCached / std::max<int64_t>(1, numbers.size(1)));
  at::parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const c10::NoGradGuard no_grad;
    for (int64_t row = begin * block; row < std::min(rows, end * block); row += block)
      work(row, numbers.narrow(0, row, std::min(block, rows - row)));
  });
}

at::Tensor HeadLogProbs(const at::Tensor& rows, const at::Tensor& weight, double temperature) {
  const at::Tensor z = HeadLogits(rows, weight);
  ForEachRowBlock(z, [&](int64_t, const at::Tensor& block) {
    block.copy_(at::log_softmax(block.div_(temperature), 1));
  });
  return z;
}

at::Tensor HeadInputGrad(const at::Tensor& grad, const at::Tensor& weight) {
  at::Tensor sum = at::zeros({grad.size(0), weight.size(1)}, grad.options());
  ForEachWideBlock(weight, [&](int64_t token, int64_t tokens, const at::Tensor& block) {
    sum.add_(Multiply(grad.narrow(1, token, tokens), block.t()));
  });
  return sum;
}

HeadGradients PullThroughHead(const at::Tensor& hidden, const at::Tensor& weight,
                              int64_t chunk_rows, bool want_hidden, bool want_weight,
                              const LogitGradient& gradient_of) {
  const at::TensorOptions wide = hidden.options().dtype(WideType(weight));
  HeadGradients of;
  if (want_hidden) of.hidden = at::empty(hidden.sizes(), wide);
  if (want_weight) {
    of.weight =
        hidden.size(0) == 0 ? at::zeros(weight.sizes(), wide) : at::empty(weight.sizes(), wide);
  }
  for (int64_t end = hidden.size(0), row; end > 0; end = row) {
    row = (end - 1) / chunk_rows * chunk_rows;
    const int64_t n = end - row;
    const at::Tensor rows = hidden.narrow(0, row, n).to(wide);
    const at::Tensor gradient = gradient_of(row, rows);
    if (want_hidden) of.hidden.narrow(0, row, n).copy_(HeadInputGrad(gradient, weight));
    if (!want_weight) continue;
    const bool first = end == hidden.size(0);
    for (int64_t token = 0; token < weight.size(0); token += kBlock) {
      const int64_t tokens = std::min(kBlock, weight.size(0) - token);
      const at::Tensor part = Multiply(gradient.narrow(1, token, tokens).t(), rows.t());
      const at::Tensor to = of.weight.narrow(0, token, tokens);
      first ? to.copy_(part) : to.add_(part);
    }
  }
  return of;
}

}  // namespace palimpsest::model
