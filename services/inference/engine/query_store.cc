#include <ATen/ATen.h>

#include <algorithm>

#include "services/inference/engine/query_store_torch.h"

namespace palimpsest::inference {

QueryStore::QueryStore(int layers, int heads, int kv_heads, int head_dim, at::ScalarType dtype,
                       int32_t capacity, bool keys)
    : capacity_(capacity), keep_keys_(keys) {
  const auto options = at::TensorOptions().dtype(dtype);
  for (int l = 0; l < layers; ++l) {
    q_.push_back(at::zeros({capacity, heads, head_dim}, options));
    k_.push_back(at::zeros({keys ? capacity : 0, kv_heads, head_dim}, options));
    bytes_ += static_cast<int64_t>(q_.back().nbytes() + k_.back().nbytes());
  }
}

void QueryStore::Extend(int32_t begin, int32_t count, int32_t needed_from) {
  if (begin != end_) begin_ = begin;
  end_ = begin + count;
  begin_ = std::clamp(std::max(needed_from, end_ - capacity_), begin_, end_);
}

void QueryStore::Record(int layer, int32_t begin, const at::Tensor& q, const at::Tensor& k) {
  const int32_t count = static_cast<int32_t>(q.size(0)), skip = std::max(0, begin_ - begin);
  if (skip >= count) return;
  Write(q_[layer], begin + skip, q.slice(0, skip, count));
  if (keep_keys_) Write(k_[layer], begin + skip, k.slice(0, skip, count));
}

at::Tensor QueryStore::Queries(int layer) const { return Read(q_[layer]); }

at::Tensor QueryStore::Keys(int layer) const { return keep_keys_ ? Read(k_[layer]) : k_[layer]; }

QueryStore QueryStore::Clone() const {
  QueryStore copy = *this;
  for (at::Tensor& q : copy.q_) q = q.clone();
  for (at::Tensor& k : copy.k_) k = k.clone();
  return copy;
}

void QueryStore::Write(at::Tensor& ring, int32_t begin, const at::Tensor& rows) const {
  const int64_t count = rows.size(0), row = begin % capacity_;
  const int64_t before = std::min<int64_t>(count, capacity_ - row);  // the ring's end
  ring.narrow(0, row, before).copy_(rows.narrow(0, 0, before));
  if (before < count)
    ring.narrow(0, 0, count - before).copy_(rows.narrow(0, before, count - before));
}

at::Tensor QueryStore::Read(const at::Tensor& ring) const {
  const int64_t count = end_ - begin_;
  if (count == 0) return ring.narrow(0, 0, 0);
  const int64_t row = begin_ % capacity_, before = std::min<int64_t>(count, capacity_ - row);
  const at::Tensor first = ring.narrow(0, row, before);
  return before == count ? first : at::cat({first, ring.narrow(0, 0, count - before)});
}

}  // namespace palimpsest::inference
