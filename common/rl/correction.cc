#include "common/rl/correction.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

bool IsMask(CorrectionKind kind) {
  return kind != CorrectionKind::kNone && kind != CorrectionKind::kTis;
}

}  // namespace

absl::Status Validate(const CorrectionOptions& o) {
  constexpr CorrectionOptions kDefaults;
  if (!(o.upper > 1 && std::isfinite(o.upper))) {
    return absl::InvalidArgumentError(absl::StrFormat("correction.upper=%g is not > 1", o.upper));
  }
  if (!(o.lower >= 0 && o.lower < 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("correction.lower=%g is not in [0, 1)", o.lower));
  }
  if (!IsMask(o.kind) && o.lower != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "correction.lower=%g with a correction.kind that is no mask has no effect", o.lower));
  }
  if (o.kind == CorrectionKind::kNone && o.upper != kDefaults.upper) {
    return absl::InvalidArgumentError(
        absl::StrFormat("correction.upper=%g with correction.kind=none has no effect", o.upper));
  }
  return absl::OkStatus();
}

double FactorCap(const CorrectionOptions& options) {
  const bool cuts =
      options.kind == CorrectionKind::kTis || options.kind == CorrectionKind::kSparseRl;
  return cuts ? options.upper : std::numeric_limits<double>::infinity();
}

std::vector<bool> CountedTokens(const CorrectionOptions& options,
                                std::span<const double> differences,
                                std::span<const int64_t> sequences) {
  std::vector<bool> counted(differences.size(), true);
  if (!IsMask(options.kind)) return counted;
  const bool from_above = options.kind != CorrectionKind::kSparseRl;  // which cuts instead
  const auto inside = [&](double difference) {
    const double ratio = std::exp(difference);
    return ratio >= options.lower && (ratio <= options.upper || !from_above);
  };
  for (size_t s = 0; s + 1 < sequences.size(); ++s) {
    const auto begin = differences.begin() + sequences[s],
               end = differences.begin() + sequences[s + 1];
    if (options.kind == CorrectionKind::kIcePop) {
      std::transform(begin, end, counted.begin() + sequences[s], inside);
      continue;
    }
    const double mean = std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
    const bool whole = options.kind == CorrectionKind::kGeometricMask
                           ? inside(mean)
                           : std::all_of(begin, end, inside);
    std::fill(counted.begin() + sequences[s], counted.begin() + sequences[s + 1], whole);
  }
  return counted;
}

}  // namespace palimpsest::rl
