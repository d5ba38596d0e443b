#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/attention/execute_torch.h"

namespace palimpsest::inference {

// The KV cache: rows, each one slot of every layer and KV head. Rows are written once and then only
// read: samples of a group share them by count, an event writes new rows and lets go of old ones.
// Owner: engine thread. Letters: N rows, L layers, Hk KV heads, d head width.
class KvPool {
 public:
  KvPool(int layers, int kv_heads, int head_dim, at::ScalarType dtype, int64_t rows);

  int64_t rows() const { return static_cast<int64_t>(counts_.size()); }
  int64_t free_rows() const { return static_cast<int64_t>(free_.size()); }

  // `n` rows with count 1. The caller has reserved them: n <= free_rows().
  std::vector<int64_t> Take(int64_t n);
  void Share(int64_t row) { ++counts_[row]; }
  void Release(int64_t row);

  // k, v [n, Hk, d], bias [n, Hk] (undefined: zeros) into `rows` of one layer.
  void Write(int layer, const std::vector<int64_t>& rows, const at::Tensor& k, const at::Tensor& v,
             const at::Tensor& bias);

  // The layer as a key source: slot i is row i, with its bias.
  attention::KeySource Source(int layer) const;

 private:
  std::vector<at::Tensor> k_, v_;  // [L] of [N, Hk, d]
  std::vector<at::Tensor> bias_;   // [L] of [N, Hk] fp32
  std::vector<int32_t> counts_;    // owners of each row; 0 = free
  std::vector<int64_t> free_;
};

}  // namespace palimpsest::inference
