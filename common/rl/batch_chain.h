#pragma once

#include <cstdint>
#include <string_view>

#include "common/context/types.h"

namespace palimpsest::rl {

// Which batches weights contain, each once and in order, in one digest. A checkpoint carries it:
// whoever has the ids of the batches can tell whether they are those.
struct BatchChain {
  int64_t first = 1;       // step of the first batch in it
  context::Digest digest;  // 16 zero bytes: of none

  // The digest becomes XXH3-128(digest ‖ u64 little-endian step ‖ batch_id).
  void Add(int64_t step, std::string_view batch_id);
  bool operator==(const BatchChain&) const = default;
};

}  // namespace palimpsest::rl
