#include "services/inference/engine/query_store.h"

#include <algorithm>

namespace palimpsest::inference {

int32_t QueryStore::Extend(int32_t begin, int32_t count, int32_t needed_from) {
  if (begin != end_) begin_ = begin;
  end_ = begin + count;
  begin_ = std::clamp(std::max(needed_from, end_ - capacity_), begin_, end_);
  return std::max(0, begin_ - begin);
}

QueryStore QueryStore::Clone() const {
  QueryStore copy(ring_ ? ring_->Clone() : nullptr, capacity_, bytes_);
  copy.begin_ = begin_;
  copy.end_ = end_;
  return copy;
}

}  // namespace palimpsest::inference
