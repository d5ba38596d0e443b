#include <ATen/ATen.h>

#include "common/model/huge_pages.h"
#include "services/inference/engine/kv_pool_torch.h"

namespace palimpsest::inference {

KvPool::KvPool(int layers, int kv_heads, int head_dim, at::ScalarType dtype, int64_t pages)
    : slots_(pages * kPageSlots),
      kv_heads_(kv_heads),
      row_bytes_(head_dim * static_cast<int64_t>(c10::elementSize(dtype))),
      has_memory_(pages) {
  for (int l = 0; l < layers; ++l) {
    k_.push_back(at::empty({slots(), kv_heads, head_dim}, dtype));
    v_.push_back(at::empty({slots(), kv_heads, head_dim}, dtype));
    bias_.push_back(at::empty({slots(), kv_heads}, at::kFloat));
    for (const at::Tensor& x : {k_.back(), v_.back(), bias_.back()})
      model::UseSmallPages(x.data_ptr(), static_cast<int64_t>(x.nbytes()));
    k_at_.push_back(static_cast<char*>(k_.back().data_ptr()));
    v_at_.push_back(static_cast<char*>(v_.back().data_ptr()));
    bias_at_.push_back(bias_.back().data_ptr<float>());
  }
}

void KvPool::TakeMemory(std::span<const int32_t> table) {
  const int64_t bytes = kPageSlots * kv_heads_ * row_bytes_;
  for (auto page = table.rbegin(); page != table.rend() && !has_memory_[*page]; ++page) {
    for (size_t l = 0; l < k_at_.size(); ++l) {
      for (char* x : {k_at_[l], v_at_[l]}) model::TakePages(x + *page * bytes, bytes);
    }
    has_memory_[*page] = true;
  }
}

void KvPool::CopyPage(int32_t from, int32_t to) {
  TakeMemory({&to, 1});
  const int64_t rows = kPageSlots * kv_heads_;
  for (size_t l = 0; l < k_at_.size(); ++l) {
    for (char* x : {k_at_[l], v_at_[l]})
      memcpy(x + to * rows * row_bytes_, x + from * rows * row_bytes_, rows * row_bytes_);
    memcpy(bias_at_[l] + to * rows, bias_at_[l] + from * rows, rows * sizeof(float));
  }
}

void KvPool::Move(int layer, int64_t from, int64_t to, int head) {
  if (from == to) return;
  const int64_t at = (from * kv_heads_ + head);
  Write(layer, to, head, k_at_[layer] + at * row_bytes_, v_at_[layer] + at * row_bytes_,
        bias_at_[layer][at]);
}

}  // namespace palimpsest::inference
