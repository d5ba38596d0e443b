#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// A ring of recorded queries (and keys) in host memory.
class HostRing final : public QueryRing {
 public:
  HostRing(int layers, int heads, int kv_heads, int head_dim, at::ScalarType dtype,
           int32_t capacity, bool keys);

  // At most `capacity` positions from `begin` on: rows from `row` on of q [T, H, d], k [T, Hk, d],
  // contiguous and in the ring's dtype.
  void Record(int layer, int32_t begin, int32_t count, int64_t row, const at::Tensor& q,
              const at::Tensor& k);
  // Copies where the positions lie across the ring's end.
  at::Tensor Queries(int layer, context::Range positions) const;  // [positions, H, d]
  // [positions, Hk, d]; [0, Hk, d] when keys are not kept.
  at::Tensor Keys(int layer, context::Range positions) const;
  std::unique_ptr<QueryRing> Clone() const override;

 private:
  void Write(at::Tensor& ring, int32_t begin, int32_t count, int64_t row,
             const at::Tensor& from) const;
  at::Tensor Read(const at::Tensor& ring, context::Range positions) const;

  int32_t capacity_;
  bool keep_keys_;
  std::vector<at::Tensor> q_, k_;  // [L] of [capacity, H or Hk, d]
};

}  // namespace palimpsest::inference
