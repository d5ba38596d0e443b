#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

// How the losses of tokens become the loss of a batch. Of sequence i, T_i its loss tokens and w_i
// the weight of its item, each token weighs, over all S sequences of the batch,
//   token_mean       w_i / sum_j T_j           DAPO (arXiv:2503.14476, eq. 8)
//   sequence_mean    w_i / (S T_i)             GRPO (arXiv:2402.03300, eq. 3)
//   constant         w_i / (S divisor)         Dr.GRPO (arXiv:2503.20783): no length
//   length_weighted  w_i T_i^-power / sum_j T_j^(1 - power)
//                    power 0 is token_mean, 1 is sequence_mean
// Weights are of the whole batch, so how it is cut into micro-batches changes nothing.
enum class Aggregation : uint8_t { kTokenMean, kSequenceMean, kConstant, kLengthWeighted };

struct AggregationOptions {
  Aggregation kind = Aggregation::kTokenMean;
  double divisor = 0;  // tokens; > 0, of constant only: the most that a response may have
  double power = 0;    // [0, 1], of length_weighted only
  bool operator==(const AggregationOptions&) const = default;
};
absl::Status Validate(const AggregationOptions& options);

// [S] weight of each token of a sequence. item_weights: [S] >= 0; lengths: [S] tokens, > 0.
std::vector<double> TokenWeights(const AggregationOptions& options,
                                 std::span<const double> item_weights,
                                 std::span<const int64_t> lengths);

}  // namespace palimpsest::rl
