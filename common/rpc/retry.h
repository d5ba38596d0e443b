#pragma once

#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/config/binder.h"

namespace palimpsest {

// How often and how long an idempotent call is tried again while its peer is UNAVAILABLE.
struct RetryPolicy {
  int max_attempts = 5;  // the first one included
  absl::Duration first_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);
  double growth = 2;                                 // of the backoff, per attempt
  double jitter = 0.2;                               // +- share of a backoff, [0, 1)
  absl::Duration give_up_after = absl::Seconds(30);  // no attempt starts later than this
  bool operator==(const RetryPolicy&) const = default;
};
void Bind(Binder& b, RetryPolicy& c);
absl::Status Validate(const RetryPolicy& c);

// The wait after failed attempt `attempt` (from 1):
//   min(max_backoff, first_backoff * growth^(attempt-1)) * (1 + jitter * u),  u uniform in [-1, 1).
// `seed` keeps many clients from coming back at the same moment; key it by role and rank.
absl::Duration Backoff(const RetryPolicy& policy, int attempt, uint64_t seed);

inline absl::Status StatusOf(const absl::Status& status) { return status; }
template <class T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Calls `fn`, which returns Status or StatusOr and makes its own context each time, until it
// answers anything but kUnavailable; the last answer is returned. For idempotent calls only.
template <class Fn>
std::invoke_result_t<Fn> CallWithRetry(Clock& clock, const RetryPolicy& policy, uint64_t seed,
                                       Fn&& fn) {
  const absl::Time last_start = clock.Now() + policy.give_up_after;
  for (int attempt = 1;; ++attempt) {
    std::invoke_result_t<Fn> result = fn();
    if (!absl::IsUnavailable(StatusOf(result)) || attempt >= policy.max_attempts) return result;
    const absl::Duration wait = Backoff(policy, attempt, seed);
    if (clock.Now() + wait > last_start) return result;
    clock.SleepFor(wait);
  }
}

}  // namespace palimpsest
