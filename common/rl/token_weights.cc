#include "common/rl/token_weights.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

// What the weight of an item is divided by, [S].
std::vector<double> Divisors(const AggregationOptions& options, std::span<const int64_t> lengths) {
  const auto count = static_cast<double>(lengths.size());
  double tokens = 0, powers = 0;
  for (int64_t length : lengths) {
    tokens += static_cast<double>(length);
    powers += std::pow(static_cast<double>(length), 1 - options.power);
  }
  std::vector<double> divisors;
  for (int64_t length : lengths) {
    const auto own = static_cast<double>(length);
    switch (options.kind) {
      case Aggregation::kTokenMean:
        divisors.push_back(tokens);
        break;
      case Aggregation::kSequenceMean:
        divisors.push_back(count * own);
        break;
      case Aggregation::kConstant:
        divisors.push_back(count * options.divisor);
        break;
      case Aggregation::kLengthWeighted:
        divisors.push_back(std::pow(own, options.power) * powers);
        break;
    }
  }
  return divisors;
}

}  // namespace

absl::Status Validate(const AggregationOptions& o) {
  const bool constant = o.kind == Aggregation::kConstant;
  if (constant ? !(o.divisor > 0 && std::isfinite(o.divisor)) : o.divisor != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "aggregation.divisor=%g: it is > 0 with aggregation.kind=constant and 0 with the others",
        o.divisor));
  }
  const bool weighted = o.kind == Aggregation::kLengthWeighted;
  if (weighted ? !(o.power >= 0 && o.power <= 1) : o.power != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "aggregation.power=%g: it is in [0, 1] with aggregation.kind=length_weighted and 0 with "
        "the others",
        o.power));
  }
  return absl::OkStatus();
}

std::vector<double> TokenWeights(const AggregationOptions& options,
                                 std::span<const double> item_weights,
                                 std::span<const int64_t> lengths) {
  std::vector<double> weights = Divisors(options, lengths);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = item_weights[i] / weights[i];
  return weights;
}

}  // namespace palimpsest::rl
