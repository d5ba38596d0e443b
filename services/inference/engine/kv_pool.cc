#include <ATen/ATen.h>

#include <cassert>

#include "services/inference/engine/kv_pool_torch.h"

namespace palimpsest::inference {

KvPool::KvPool(int layers, int kv_heads, int head_dim, at::ScalarType dtype, int64_t rows)
    : counts_(rows, 0) {
  const auto options = at::TensorOptions().dtype(dtype);
  for (int l = 0; l < layers; ++l) {
    k_.push_back(at::zeros({rows, kv_heads, head_dim}, options));
    v_.push_back(at::zeros({rows, kv_heads, head_dim}, options));
    bias_.push_back(at::zeros({rows, kv_heads}, at::kFloat));
  }
  free_.resize(rows);
  for (int64_t i = 0; i < rows; ++i) free_[i] = rows - 1 - i;  // low rows first
}

std::vector<int64_t> KvPool::Take(int64_t n) {
  assert(n <= free_rows());
  std::vector<int64_t> rows(free_.rbegin(), free_.rbegin() + n);
  free_.resize(free_.size() - n);
  for (int64_t row : rows) counts_[row] = 1;
  return rows;
}

void KvPool::Release(int64_t row) {
  assert(counts_[row] > 0);
  if (--counts_[row] == 0) free_.push_back(row);
}

void KvPool::Write(int layer, const std::vector<int64_t>& rows, const at::Tensor& k,
                   const at::Tensor& v, const at::Tensor& bias) {
  const at::Tensor index = at::tensor(rows, at::kLong);
  k_[layer].index_copy_(0, index, k.to(k_[layer].scalar_type()));
  v_[layer].index_copy_(0, index, v.to(v_[layer].scalar_type()));
  if (bias.defined()) {
    bias_[layer].index_copy_(0, index, bias.to(at::kFloat));
  } else {
    bias_[layer].index_fill_(0, index, 0);
  }
}

attention::KeySource KvPool::Source(int layer) const {
  // All rows stand in the part of a key source that has a bias.
  return {.k = k_[layer].slice(0, 0, 0),
          .v = v_[layer].slice(0, 0, 0),
          .k_compact = k_[layer],
          .v_compact = v_[layer],
          .bias = bias_[layer]};
}

}  // namespace palimpsest::inference
