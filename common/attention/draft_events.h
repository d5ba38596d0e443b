#pragma once

#include <cstdint>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/base/status.h"
#include "common/context/policy.h"

namespace palimpsest::attention {

// The events that `policy` writes over a sequence of `rows` processed tokens, to be replayed with
// kept positions chosen on the fly. Which positions a chooser will keep is not known here and need
// not be: later windows hang on counts alone, and those follow from keep_ratio. INVALID_ARGUMENT
// when the policy cannot work for this prompt, runs out of room, or fires on what no finished
// sequence tells (`turns`, `manual`).
absl::StatusOr<std::vector<ReplayEvent>> DraftEvents(const context::ContextPolicy& policy,
                                                     context::Shape shape, int32_t prompt_tokens,
                                                     int32_t rows);

}  // namespace palimpsest::attention
