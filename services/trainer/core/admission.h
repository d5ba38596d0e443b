#pragma once

#include <cstdint>
#include <optional>

#include "common/context/types.h"
#include "services/trainer/core/batch.h"

namespace palimpsest::trainer {

// What an item must fit.
struct Limits {
  context::Shape shape;
  int32_t vocab = 0;
  int32_t max_tokens_per_sequence = 0;       // the model's positions, and a micro-batch's rows
  std::optional<PolicyVersion> newest = {};  // version that was ever published; absent: none
  bool take_truncated_sampling = false;
  bool take_greedy = false;
};

// Why an item may not be learnt from; nullopt: it may. Everything that could make the replay fail
// or lie is looked at here, the log with its digests included, before anything runs.
std::optional<Rejected> Refuse(const RlItem& item, const Limits& limits);
std::optional<Rejected> Refuse(const SftItem& item, const Limits& limits);

// INVALID_ARGUMENT for a batch that no trainer could take: no id, no items, both kinds, a rate that
// is not > 0.
absl::Status Validate(const Batch& batch);

}  // namespace palimpsest::trainer
