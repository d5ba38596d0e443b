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
  double prompt_cost = 0;     // of the prompt's rows and pairs, as in split.h; equal within a group
  double own_cost = 0;        // of the others
};

// Cuts a batch into micro-batches of at most `max_rows` rows, a group's prompt counted once in
// each: as few as first-fit decreasing finds, and never more than filling one after the other in
// the order of the batch. Then groups move and change places until the dearest micro-batch costs
// little more than the mean, or no such step makes it cheaper. A group stays whole unless it is
// larger than a micro-batch; the pieces of such a group come one after another and may hold others.
// A pure function of its arguments. Returns indices of items, those of a group in one run, groups
// and micro-batches in the order of their first items. INVALID_ARGUMENT when one item alone does
// not fit.
absl::StatusOr<std::vector<std::vector<int>>> PackMicroBatches(std::span<const PackItem> items,
                                                               int64_t max_rows);

}  // namespace palimpsest::rl
