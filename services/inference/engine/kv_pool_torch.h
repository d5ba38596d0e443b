#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "common/attention/paged_kernel.h"
#include "services/inference/core/page_pool.h"

namespace palimpsest::inference {

static_assert(kPageSlots == attention::kSlotsPerPage);

// What stands in the pages of the KV cache, on the host. A slot of the pool is a row of every
// layer; slot s of page p is row p * kPageSlots + s.
// Owner: engine thread. Letters: N slots, L layers, Hk KV heads, d head width.
class KvPool {
 public:
  KvPool(int layers, int kv_heads, int head_dim, at::ScalarType dtype, int64_t pages);

  int64_t slots() const { return slots_; }

  // Before rows are written into the last of these pages: the system gives memory to what is used
  // first, and kernels read whole pages.
  void TakeMemory(std::span<const int32_t> table);
  // All layers of page `from` into page `to`.
  void CopyPage(int32_t from, int32_t to);
  // One row of one head: key and value [d] in the pool's dtype.
  void Write(int layer, int64_t slot, int head, const void* k, const void* v, float bias) {
    const int64_t at = slot * kv_heads_ + head;
    memcpy(k_at_[layer] + at * row_bytes_, k, row_bytes_);
    memcpy(v_at_[layer] + at * row_bytes_, v, row_bytes_);
    bias_at_[layer][at] = bias;
  }
  // The same from another slot of the layer.
  void Move(int layer, int64_t from, int64_t to, int head);

  const at::Tensor& k(int layer) const { return k_[layer]; }        // [N, Hk, d]
  const at::Tensor& v(int layer) const { return v_[layer]; }        // [N, Hk, d]
  const at::Tensor& bias(int layer) const { return bias_[layer]; }  // [N, Hk] fp32

 private:
  int64_t slots_;
  std::vector<at::Tensor> k_, v_, bias_;  // [L]
  int64_t kv_heads_, row_bytes_;
  std::vector<char*> k_at_, v_at_;  // [L] where the tensors' memory begins
  std::vector<float*> bias_at_;
  std::vector<bool> has_memory_;  // [pages]
};

}  // namespace palimpsest::inference
