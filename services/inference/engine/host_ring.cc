#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "services/inference/engine/host_ring_torch.h"

namespace palimpsest::inference {

HostRing::HostRing(int layers, int heads, int kv_heads, int head_dim, at::ScalarType dtype,
                   int32_t capacity, bool keys)
    : capacity_(capacity), keep_keys_(keys) {
  const auto options = at::TensorOptions().dtype(dtype);
  for (int l = 0; l < layers; ++l) {
    q_.push_back(at::zeros({capacity, heads, head_dim}, options));
    k_.push_back(at::zeros({keys ? capacity : 0, kv_heads, head_dim}, options));
  }
}

void HostRing::Record(int layer, int32_t begin, int32_t count, int64_t row, const at::Tensor& q,
                      const at::Tensor& k) {
  Write(q_[layer], begin, count, row, q);
  if (keep_keys_) Write(k_[layer], begin, count, row, k);
}

at::Tensor HostRing::Queries(int layer, context::Range positions) const {
  return Read(q_[layer], positions);
}

at::Tensor HostRing::Keys(int layer, context::Range positions) const {
  return keep_keys_ ? Read(k_[layer], positions) : k_[layer];
}

std::unique_ptr<QueryRing> HostRing::Clone() const {
  auto copy = std::make_unique<HostRing>(*this);
  for (at::Tensor& q : copy->q_) q = q.clone();
  for (at::Tensor& k : copy->k_) k = k.clone();
  return copy;
}

// Bytes, not tensors: one decode step does this for each sequence in each layer.
void HostRing::Write(at::Tensor& ring, int32_t begin, int32_t count, int64_t row,
                     const at::Tensor& from) const {
  const int64_t bytes = from.size(1) * from.size(2) * static_cast<int64_t>(from.element_size());
  const char* rows = static_cast<const char*>(from.const_data_ptr()) + row * bytes;
  char* const to = static_cast<char*>(ring.data_ptr());
  const int64_t at = begin % capacity_;
  const int64_t before = std::min<int64_t>(count, capacity_ - at);  // the ring's end
  std::memcpy(to + at * bytes, rows, before * bytes);
  std::memcpy(to, rows + before * bytes, (count - before) * bytes);
}

at::Tensor HostRing::Read(const at::Tensor& ring, context::Range positions) const {
  const int64_t count = positions.size();
  if (count == 0) return ring.narrow(0, 0, 0);
  const int64_t row = positions.begin % capacity_,
                before = std::min<int64_t>(count, capacity_ - row);
  const at::Tensor first = ring.narrow(0, row, before);
  return before == count ? first : at::cat({first, ring.narrow(0, 0, count - before)});
}

}  // namespace palimpsest::inference
