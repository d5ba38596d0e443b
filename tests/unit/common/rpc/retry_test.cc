#include "common/rpc/retry.h"

#include <gtest/gtest.h>

#include <vector>

namespace palimpsest {
namespace {

// Sleeping moves the time and is written down.
class RecordingClock final : public Clock {
 public:
  absl::Time Now() override { return now_; }
  void SleepFor(absl::Duration d) override {
    sleeps.push_back(d);
    now_ += d;
  }
  std::vector<absl::Duration> sleeps;

 private:
  absl::Time now_ = absl::UnixEpoch();
};

TEST(BackoffTest, GrowsToItsBoundWithinTheJitter) {
  const RetryPolicy policy;
  const double want[] = {0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5};
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (int attempt = 1; attempt <= 9; ++attempt) {
      const double wait = absl::ToDoubleSeconds(Backoff(policy, attempt, seed));
      EXPECT_GE(wait, want[attempt - 1] * 0.8 - 1e-9);
      EXPECT_LE(wait, want[attempt - 1] * 1.2 + 1e-9);
    }
  }
}

TEST(BackoffTest, SeedsComeBackAtDifferentTimes) {
  EXPECT_NE(Backoff({}, 1, 1), Backoff({}, 1, 2));
  EXPECT_EQ(Backoff({}, 1, 1), Backoff({}, 1, 1));
}

TEST(CallWithRetryTest, OnlyUnavailableIsTriedAgain) {
  RecordingClock clock;
  int calls = 0;
  const absl::Status status = CallWithRetry(clock, {}, 1, [&] {
    ++calls;
    return calls < 3 ? absl::UnavailableError("down") : absl::AbortedError("no");
  });
  EXPECT_EQ(status, absl::AbortedError("no"));
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(clock.sleeps.size(), 2u);
}

TEST(CallWithRetryTest, ValuesComeThrough) {
  RecordingClock clock;
  const absl::StatusOr<int> value =
      CallWithRetry(clock, {}, 1, []() -> absl::StatusOr<int> { return 7; });
  EXPECT_EQ(value.value(), 7);
  EXPECT_TRUE(clock.sleeps.empty());
}

TEST(CallWithRetryTest, AttemptsAndTimeAreBounded) {
  RecordingClock clock;
  int calls = 0;
  const auto down = [&] {
    ++calls;
    return absl::UnavailableError("down");
  };
  EXPECT_EQ(CallWithRetry(clock, {}, 1, down).message(), "down");
  EXPECT_EQ(calls, 5);
  calls = 0;
  RetryPolicy policy;
  policy.max_attempts = 1000;
  policy.give_up_after = absl::Seconds(12);
  const absl::Time start = clock.Now();
  EXPECT_TRUE(absl::IsUnavailable(CallWithRetry(clock, policy, 1, down)));
  EXPECT_LE(clock.Now() - start, absl::Seconds(12));
  EXPECT_GT(clock.Now() - start, absl::Seconds(5));
  EXPECT_LT(calls, 12);
}

TEST(RetryPolicyTest, WrongValuesAreRefused) {
  EXPECT_TRUE(Validate(RetryPolicy()).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.max_attempts = 0}).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.first_backoff = absl::ZeroDuration()}).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.max_backoff = absl::Milliseconds(1)}).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.growth = 0.5}).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.jitter = 1}).ok());
  EXPECT_FALSE(Validate(RetryPolicy{.give_up_after = -absl::Seconds(1)}).ok());
}

}  // namespace
}  // namespace palimpsest
