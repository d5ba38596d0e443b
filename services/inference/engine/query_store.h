#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace palimpsest::inference {

// Post-RoPE queries (and keys, when references are keys) of the newest positions of one sequence:
// what the fit of a coming event listens to. Positions are contiguous; the oldest are let go once
// no event can ask for them.
class QueryStore {
 public:
  QueryStore() = default;
  QueryStore(int layers, int heads, int kv_heads, int head_dim, at::ScalarType dtype,
             int32_t capacity, bool keys);

  bool enabled() const { return capacity_ > 0; }
  // Makes room for positions [begin, begin + count), forgetting what lies before `needed_from`, and
  // all of it when they do not follow the newest. Only the last `capacity` positions are kept.
  void Extend(int32_t begin, int32_t count, int32_t needed_from);
  // Of positions [begin, begin + count), just extended: rows from `row` on of q [T, H, d], k [T,
  // Hk, d], contiguous and in the store's dtype.
  void Record(int layer, int32_t begin, int32_t count, int64_t row, const at::Tensor& q,
              const at::Tensor& k);

  int32_t begin() const { return begin_; }
  int32_t end() const { return end_; }
  // Copies where the positions lie across the ring's end.
  at::Tensor Queries(int layer) const;  // [end - begin, H, d]
  at::Tensor Keys(int layer) const;     // [end - begin, Hk, d]; [0, Hk, d] when keys are not kept
  QueryStore Clone() const;
  int64_t bytes() const { return bytes_; }

 private:
  void Write(at::Tensor& ring, int32_t begin, int32_t count, int64_t row,
             const at::Tensor& from) const;
  at::Tensor Read(const at::Tensor& ring) const;

  int32_t capacity_ = 0;
  bool keep_keys_ = false;
  int64_t bytes_ = 0;
  int32_t begin_ = 0, end_ = 0;    // positions stored, at most `capacity`
  std::vector<at::Tensor> q_, k_;  // [L] of [capacity, H or Hk, d]: position p in row p % capacity
};

}  // namespace palimpsest::inference
