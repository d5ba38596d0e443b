#include "common/http/warm_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <vector>

#include "absl/synchronization/notification.h"

namespace palimpsest {
namespace {

TEST(WarmThreadsTest, JobsOneAfterTheOtherStayOnOneThread) {
  WarmThreads threads(8);
  std::set<std::thread::id> ran_on;
  for (int i = 0; i < 100; ++i) {
    absl::Notification done;
    while (!threads.Start([&] { ran_on.insert(std::this_thread::get_id()), done.Notify(); }))
      ;
    done.WaitForNotification();
  }
  // Threads of the last jobs may still be on their way back when the next one comes.
  EXPECT_LE(threads.made(), 4);
  EXPECT_LE(ran_on.size(), 4u);
}

TEST(WarmThreadsTest, MoreJobsThanThreadsAreRefusedAndOneThatEndsMakesRoom) {
  WarmThreads threads(3);
  std::atomic<int> running = 0;
  std::vector<absl::Notification> go(4);
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(threads.Start([&, i] { ++running, go[i].WaitForNotification(), --running; }));
  EXPECT_EQ(threads.made(), 3);
  EXPECT_FALSE(threads.Start([] { FAIL() << "there was no thread for it"; }));
  go[1].Notify();
  while (!threads.Start([&] { ++running, go[3].WaitForNotification(), --running; }))
    std::this_thread::yield();
  EXPECT_EQ(threads.made(), 3);
  for (const int i : {0, 2, 3}) go[i].Notify();
  threads.Join();
  EXPECT_EQ(running, 0);
  EXPECT_FALSE(threads.Start([] { FAIL() << "it is over"; }));
}

TEST(WarmThreadsTest, AreMadeWhenTheyAreNeeded) {
  WarmThreads threads(1000);
  EXPECT_EQ(threads.made(), 0);
}

TEST(WarmThreadsTest, JoinWaitsForWhatRunsAndForWhatWasTaken) {
  std::atomic<int> ended = 0;
  WarmThreads threads(16);
  for (int i = 0; i < 16; ++i) threads.Start([&] { std::this_thread::yield(), ++ended; });
  const int taken = 16;
  threads.Join();
  EXPECT_EQ(ended, taken);
}

}  // namespace
}  // namespace palimpsest
