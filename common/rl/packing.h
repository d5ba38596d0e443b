#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

struct PackItem {
  int64_t group = 0;          // items of one group share their prompt's rows in a micro-batch
  int32_t prompt_tokens = 0;  // equal within a group
  int32_t rows = 0;           // of the whole sequence, prompt included
};

// Cuts a batch into micro-batches of at most `max_rows` rows, a group's prompt counted once in
// each. Groups keep the order of their first item and stay whole where a micro-batch can hold them.
// Returns indices of items. INVALID_ARGUMENT when one item alone does not fit.
absl::StatusOr<std::vector<std::vector<int>>> PackMicroBatches(std::span<const PackItem> items,
                                                               int64_t max_rows);

}  // namespace palimpsest::rl
