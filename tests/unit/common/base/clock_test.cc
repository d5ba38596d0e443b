#include "common/base/clock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace palimpsest {
namespace {

TEST(FakeClockTest, SleepReturnsOnlyOnceTimeHasMovedPastIt) {
  FakeClock clock;
  std::atomic<bool> woken = false;
  std::jthread sleeper([&] {
    clock.SleepFor(absl::Seconds(10));
    woken = true;
  });
  // The sleeper may begin late: its ten seconds count from then, so advance until it wakes.
  while (!woken) clock.Advance(absl::Seconds(1));
  EXPECT_GE(clock.Now(), absl::UnixEpoch() + absl::Seconds(10));
}

}  // namespace
}  // namespace palimpsest
