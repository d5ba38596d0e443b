#include "common/model/borrowed_threads.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <thread>

namespace palimpsest::model {
namespace {

int64_t ThreadsOfThisProcess() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

TEST(BorrowedThreadsTest, WhatARegionStartedEndsWithThem) {
  if (UseThreads(2) < 2) GTEST_SKIP() << "OMP_THREAD_LIMIT allows one thread";
  int64_t before = 0, during = 0, after = 0;
  std::thread worker([&] {
    UseThreads(2);
    before = ThreadsOfThisProcess();
    {
      const BorrowedThreads threads;
      at::parallel_for(0, 2, 1, [](int64_t, int64_t) {});
      during = ThreadsOfThisProcess();
    }
    after = ThreadsOfThisProcess();
  });
  worker.join();
  EXPECT_EQ(during, before + 1) << "the control: a region leaves its team behind";
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace palimpsest::model
