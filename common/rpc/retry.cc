#include "common/rpc/retry.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/random.h"

namespace palimpsest {

void Bind(Binder& b, RetryPolicy& c) {
  b.Field("max_attempts", c.max_attempts, "the first one included");
  b.Field("first_backoff", c.first_backoff, "wait after the first failure");
  b.Field("max_backoff", c.max_backoff, "longest wait");
  b.Field("growth", c.growth, "of the wait, per attempt");
  b.Field("jitter", c.jitter, "share of a wait that is left to chance");
  b.Field("give_up_after", c.give_up_after, "no attempt starts later");
}

absl::Status Validate(const RetryPolicy& c) {
  if (c.max_attempts < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_attempts=%d is below 1", c.max_attempts));
  }
  if (c.first_backoff <= absl::ZeroDuration() || c.max_backoff < c.first_backoff) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "first_backoff=%s must be above 0s and at most max_backoff=%s",
        absl::FormatDuration(c.first_backoff), absl::FormatDuration(c.max_backoff)));
  }
  if (!(c.growth >= 1)) {
    return absl::InvalidArgumentError(absl::StrFormat("growth=%g is below 1", c.growth));
  }
  if (!(c.jitter >= 0 && c.jitter < 1)) {
    return absl::InvalidArgumentError(absl::StrFormat("jitter=%g is outside of [0, 1)", c.jitter));
  }
  if (c.give_up_after < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("give_up_after=%s is negative", absl::FormatDuration(c.give_up_after)));
  }
  return absl::OkStatus();
}

absl::Duration Backoff(const RetryPolicy& policy, int attempt, uint64_t seed) {
  const double u = 2 * Uniform01(seed, Meaning("rpc backoff"), static_cast<uint64_t>(attempt)) - 1;
  const double first = absl::ToDoubleSeconds(policy.first_backoff);
  const double wait = std::min(absl::ToDoubleSeconds(policy.max_backoff),
                               first * std::pow(policy.growth, attempt - 1));
  return absl::Seconds(wait * (1 + policy.jitter * u));
}

}  // namespace palimpsest
