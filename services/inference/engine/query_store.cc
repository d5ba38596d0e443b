#include <ATen/ATen.h>

#include <algorithm>

#include "services/inference/engine/query_store_torch.h"

namespace palimpsest::inference {

QueryStore::QueryStore(int layers, int heads, int kv_heads, int head_dim, at::ScalarType dtype,
                       int32_t capacity, bool keys)
    : capacity_(capacity), keep_keys_(keys) {
  const auto options = at::TensorOptions().dtype(dtype);
  for (int l = 0; l < layers; ++l) {
    q_.push_back(at::zeros({2 * capacity, heads, head_dim}, options));
    k_.push_back(at::zeros({keys ? 2 * capacity : 0, kv_heads, head_dim}, options));
    bytes_ += static_cast<int64_t>(q_.back().nbytes() + k_.back().nbytes());
  }
}

void QueryStore::Extend(int32_t begin, int32_t count, int32_t needed_from) {
  const int32_t end = begin + count;
  if (begin != end_) begin_ = end_ = begin, offset_ = 0;
  end_ = end;
  // What no event can ask for goes; so does what lies further back than the longest reference
  // range.
  const int32_t first = std::clamp(std::max(needed_from, end - capacity_), begin_, end_);
  offset_ += first - begin_;
  begin_ = first;
  if (offset_ + (end_ - begin_) <= 2 * capacity_) return;
  const int32_t old =
      std::max(0, begin - begin_);  // rows that exist already and must move to the front
  for (at::Tensor& q : q_) q.slice(0, 0, old).copy_(q.slice(0, offset_, offset_ + old).clone());
  if (keep_keys_) {
    for (at::Tensor& k : k_) k.slice(0, 0, old).copy_(k.slice(0, offset_, offset_ + old).clone());
  }
  offset_ = 0;
}

void QueryStore::Record(int layer, int32_t begin, const at::Tensor& q, const at::Tensor& k) {
  const int32_t count = static_cast<int32_t>(q.size(0)), skip = std::max(0, begin_ - begin);
  if (skip >= count) return;
  const int32_t row = offset_ + begin + skip - begin_;
  q_[layer].slice(0, row, row + count - skip).copy_(q.slice(0, skip, count));
  if (keep_keys_) k_[layer].slice(0, row, row + count - skip).copy_(k.slice(0, skip, count));
}

at::Tensor QueryStore::Queries(int layer) const {
  return q_[layer].slice(0, offset_, offset_ + end_ - begin_);
}

at::Tensor QueryStore::Keys(int layer) const {
  return keep_keys_ ? k_[layer].slice(0, offset_, offset_ + end_ - begin_) : k_[layer];
}

QueryStore QueryStore::Clone() const {
  QueryStore copy = *this;
  for (at::Tensor& q : copy.q_) q = q.clone();
  for (at::Tensor& k : copy.k_) k = k.clone();
  return copy;
}

}  // namespace palimpsest::inference
