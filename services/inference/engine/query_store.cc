#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

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

void QueryStore::Record(int layer, int32_t begin, int32_t count, int64_t row, const at::Tensor& q,
                        const at::Tensor& k) {
  const int32_t skip = std::max(0, begin_ - begin);
  if (skip >= count) return;
  Write(q_[layer], begin + skip, count - skip, row + skip, q);
  if (keep_keys_) Write(k_[layer], begin + skip, count - skip, row + skip, k);
}

at::Tensor QueryStore::Queries(int layer) const { return Read(q_[layer]); }

at::Tensor QueryStore::Keys(int layer) const { return keep_keys_ ? Read(k_[layer]) : k_[layer]; }

QueryStore QueryStore::Clone() const {
  QueryStore copy = *this;
  for (at::Tensor& q : copy.q_) q = q.clone();
  for (at::Tensor& k : copy.k_) k = k.clone();
  return copy;
}

// Bytes, not tensors: one decode step does this for each sequence in each layer.
void QueryStore::Write(at::Tensor& ring, int32_t begin, int32_t count, int64_t row,
                       const at::Tensor& from) const {
  const int64_t bytes = from.size(1) * from.size(2) * static_cast<int64_t>(from.element_size());
  const char* rows = static_cast<const char*>(from.const_data_ptr()) + row * bytes;
  char* const to = static_cast<char*>(ring.data_ptr());
  const int64_t at = begin % capacity_;
  const int64_t before = std::min<int64_t>(count, capacity_ - at);  // the ring's end
  std::memcpy(to + at * bytes, rows, before * bytes);
  std::memcpy(to, rows + before * bytes, (count - before) * bytes);
}

at::Tensor QueryStore::Read(const at::Tensor& ring) const {
  const int64_t count = end_ - begin_;
  if (count == 0) return ring.narrow(0, 0, 0);
  const int64_t row = begin_ % capacity_, before = std::min<int64_t>(count, capacity_ - row);
  const at::Tensor first = ring.narrow(0, row, before);
  return before == count ? first : at::cat({first, ring.narrow(0, 0, count - before)});
}

}  // namespace palimpsest::inference
