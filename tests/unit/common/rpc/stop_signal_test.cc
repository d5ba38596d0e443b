#include "common/rpc/stop_signal.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace palimpsest {
namespace {

TEST(StopSignalTest, WaitsOutItsTimeWithoutASignal) {
  StopSignal stop;
  const absl::Time before = absl::Now();
  EXPECT_FALSE(stop.WaitFor(absl::Milliseconds(50)));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(49));
  EXPECT_FALSE(stop.Requested());
  EXPECT_EQ(stop.signal(), 0);
}

TEST(StopSignalTest, ASignalWakesAllWaitersAndStays) {
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) {
    StopSignal stop;
    std::vector<std::thread> waiters;
    for (int i = 0; i < 3; ++i) {
      waiters.emplace_back([&] { EXPECT_TRUE(stop.WaitFor(absl::Seconds(20))); });
    }
    absl::SleepFor(absl::Milliseconds(20));
    raise(number);
    for (std::thread& waiter : waiters) waiter.join();
    EXPECT_TRUE(stop.Requested());
    stop.Wait();
    EXPECT_EQ(stop.signal(), number);
    raise(SIGTERM);
    EXPECT_EQ(stop.signal(), number) << "the first signal is remembered";
  }
}

TEST(StopSignalTest, CanBeRaisedFromInside) {
  StopSignal stop;
  std::thread asker([&] { stop.Request(); });
  stop.Wait();
  asker.join();
  EXPECT_EQ(stop.signal(), 0);
}

TEST(StopSignalTest, HandlersArePutBack) {
  { StopSignal stop; }
  struct sigaction now {};
  sigaction(SIGTERM, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

TEST(StopSignalDeathTest, TwoAtATimeAreABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        StopSignal first;
        StopSignal second;
      },
      "second StopSignal");
}

}  // namespace
}  // namespace palimpsest
