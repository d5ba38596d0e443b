#pragma once

#include <cstdint>
#include <memory>

#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Which of the newest positions of one sequence have their post-RoPE queries (and keys, when
// references are keys) in the sequence's ring: what the fit of a coming event listens to. Positions
// are contiguous; the oldest are let go once no event can ask for them.
class QueryStore {
 public:
  QueryStore() = default;
  // `bytes`: what the ring takes.
  QueryStore(std::unique_ptr<QueryRing> ring, int32_t capacity, int64_t bytes)
      : ring_(std::move(ring)), capacity_(capacity), bytes_(bytes) {}

  // Null: nothing is recorded.
  QueryRing* ring() const { return ring_.get(); }
  // Makes room for positions [begin, begin + count), forgetting what lies before `needed_from`, and
  // all of it when they do not follow the newest. Only the last `capacity` positions are kept.
  // Returns how many of them, from the first, are not to be recorded.
  int32_t Extend(int32_t begin, int32_t count, int32_t needed_from);

  int32_t begin() const { return begin_; }
  int32_t end() const { return end_; }
  QueryStore Clone() const;
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<QueryRing> ring_;
  int32_t capacity_ = 0;
  int64_t bytes_ = 0;
  int32_t begin_ = 0, end_ = 0;  // positions stored, at most `capacity`
};

}  // namespace palimpsest::inference
