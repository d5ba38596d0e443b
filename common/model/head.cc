#include "common/model/head.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "common/model/head_torch.h"

namespace palimpsest::model {
namespace {

constexpr int64_t kBlock = 16384;  // vocabulary rows widened at once

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
  if (weight.scalar_type() == WideType(weight)) return at::linear(wide, weight);
  std::vector<at::Tensor> blocks;
  ForEachWideBlock(weight, [&](int64_t, int64_t, const at::Tensor& block) {
    blocks.push_back(at::linear(wide, block));
  });
  return blocks.size() == 1 ? blocks.front() : at::cat(blocks, 1);
}

at::Tensor HeadLogProbs(const at::Tensor& rows, const at::Tensor& weight, double temperature) {
  at::Tensor z = HeadLogits(rows, weight).div_(temperature);
  return z.sub_(at::logsumexp(z, {1}, /*keepdim=*/true));
}

at::Tensor HeadInputGrad(const at::Tensor& grad, const at::Tensor& weight) {
  if (weight.scalar_type() == WideType(weight)) return grad.matmul(weight);
  at::Tensor sum = at::zeros({grad.size(0), weight.size(1)}, grad.options());
  ForEachWideBlock(weight, [&](int64_t row, int64_t rows, const at::Tensor& block) {
    sum.addmm_(grad.narrow(1, row, rows), block);
  });
  return sum;
}

HeadGradients PullThroughHead(const at::Tensor& hidden, const at::Tensor& weight,
                              int64_t chunk_rows, bool want_hidden, bool want_weight,
                              const LogitGradient& gradient_of) {
  const at::TensorOptions wide = hidden.options().dtype(WideType(weight));
  HeadGradients of;
  if (want_hidden) of.hidden = at::empty(hidden.sizes(), wide);
  if (want_weight) of.weight = at::zeros(weight.sizes(), wide);
  for (int64_t row = 0; row < hidden.size(0); row += chunk_rows) {
    const int64_t n = std::min(chunk_rows, hidden.size(0) - row);
    const at::Tensor rows = hidden.narrow(0, row, n).to(wide);
    const at::Tensor gradient = gradient_of(row, rows);
    if (want_hidden) of.hidden.narrow(0, row, n).copy_(HeadInputGrad(gradient, weight));
    if (want_weight) of.weight.addmm_(gradient.t(), rows);
  }
  return of;
}

}  // namespace palimpsest::model
