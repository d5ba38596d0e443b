#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/base/status.h"
#include "common/context/policy.h"

namespace palimpsest::attention {

// The events that `policy` writes over a sequence of `rows` processed tokens, to be replayed with
// kept positions chosen on the fly. Which positions a chooser will keep is not known here and need
// not be: later windows hang on counts alone, and those follow from keep_ratio. INVALID_ARGUMENT
// when the policy cannot work for this prompt, runs out of room, or fires on what the sequence does
// not tell (`manual`; `turns` without turn_begins).
// `turn_begins`: for `turns`, the positions at which a session's steps began, ascending: the first
// is the prompt's length, each other one that of the first token after a response.
absl::StatusOr<std::vector<ReplayEvent>> DraftEvents(const context::ContextPolicy& policy,
                                                     context::Shape shape, int32_t prompt_tokens,
                                                     int32_t rows,
                                                     std::span<const int32_t> turn_begins = {});

}  // namespace palimpsest::attention
