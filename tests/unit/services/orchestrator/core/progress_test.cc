#include "services/orchestrator/core/progress.h"

#include <gtest/gtest.h>

namespace palimpsest::orchestrator {
namespace {

// A run whose states follow one another in milliseconds, told once a second.
class ProgressSieveTest : public ::testing::Test {
 protected:
  // The next state, `after` the one before.
  bool Next(Phase phase, int64_t step, int64_t total, absl::Duration after = absl::Milliseconds(5),
            bool last = false) {
    time_ += after;
    ++now_.sequence;
    now_.phase = phase;
    now_.step = step;
    now_.total_steps = total;
    return sieve_.Passes(now_, last, time_);
  }

  ProgressSieve sieve_{absl::Seconds(1)};
  Progress now_;
  absl::Time time_ = absl::UnixEpoch();
};

TEST_F(ProgressSieveTest, NoStageIsTooShortToBeSeenFromItsBeginToItsEnd) {
  EXPECT_TRUE(Next(Phase::kStarting, 0, 0));
  EXPECT_TRUE(Next(Phase::kSft, 0, 3));
  EXPECT_FALSE(Next(Phase::kSft, 1, 3));
  EXPECT_FALSE(Next(Phase::kSft, 2, 3));
  EXPECT_TRUE(Next(Phase::kSft, 3, 3));
  EXPECT_TRUE(Next(Phase::kEvaluation, 0, 0));
  now_.stage = "heldout.last";
  EXPECT_TRUE(Next(Phase::kEvaluation, 0, 0));
}

TEST_F(ProgressSieveTest, WithinAStageTheNewestStateIsToldWhenItIsDue) {
  EXPECT_TRUE(Next(Phase::kRl, 0, 40));
  EXPECT_EQ(sieve_.Wait(time_), absl::InfiniteDuration());
  EXPECT_FALSE(Next(Phase::kRl, 1, 40, absl::Milliseconds(400)));
  EXPECT_EQ(sieve_.Wait(time_), absl::Milliseconds(600));
  EXPECT_FALSE(Next(Phase::kRl, 2, 40, absl::Milliseconds(400)));
  time_ += sieve_.Wait(time_);
  EXPECT_TRUE(sieve_.Passes(now_, false, time_));
  EXPECT_FALSE(sieve_.Passes(now_, false, time_ + absl::Hours(1))) << "nothing is told twice";
}

TEST_F(ProgressSieveTest, TheLastStateIsAlwaysTold) {
  EXPECT_TRUE(Next(Phase::kRl, 1, 40));
  EXPECT_TRUE(Next(Phase::kRl, 2, 40, absl::Milliseconds(1), true));
}

}  // namespace
}  // namespace palimpsest::orchestrator
