#include "tools/launch/run_lease.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/base/clock.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RunLeaseTest : public ::testing::Test {
 protected:
  RunLeaseTest() : folder_(::testing::TempDir() + "run-lease-" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~RunLeaseTest() override { fs::remove_all(folder_); }
  absl::StatusOr<std::unique_ptr<RunLease>> Take(const std::string& machine) const {
    return RunLease::Take(
        folder_,
        {.machine = machine, .beat = absl::Milliseconds(30), .silence = absl::Milliseconds(400)});
  }
  // What a holder that was killed leaves behind.
  void Leave(const std::string& machine) const {
    std::ofstream(file()) << machine << "\nsomebody, pid 7\n41\n";
  }
  std::string file() const { return folder_ + "/launch.lease"; }

  const std::string folder_;
};

TEST_F(RunLeaseTest, AHolderOnAnotherMachineThatLivesIsNamed) {
  const auto first = Take("a");
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Take("b");
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("run.folder=" + folder_ + ": another launch or serve is at work there: "));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("pid " + std::to_string(getpid())));
  EXPECT_TRUE((*first)->Held().ok());
}

TEST_F(RunLeaseTest, WhatIsGivenBackIsFreeAtOnce) {
  ASSERT_TRUE(Take("a").ok());
  EXPECT_FALSE(fs::exists(file()));
  const absl::Time begin = SystemClock().Now();
  EXPECT_TRUE(Take("b").ok());
  EXPECT_LT(SystemClock().Now() - begin, absl::Milliseconds(400));
}

TEST_F(RunLeaseTest, ADeadHolderIsWaitedForOnAnotherMachineAndNotOnItsOwn) {
  Leave("a");
  const absl::Time begin = SystemClock().Now();
  EXPECT_TRUE(Take("a").ok());
  EXPECT_LT(SystemClock().Now() - begin, absl::Milliseconds(400));
  Leave("a");
  const absl::Time again = SystemClock().Now();
  EXPECT_TRUE(Take("b").ok());
  EXPECT_GE(SystemClock().Now() - again, absl::Milliseconds(400));
}

TEST_F(RunLeaseTest, WhoWasSilentTooLongLearnsThatTheRunIsAnothersAndLeavesItToIt) {
  auto first = Take("a");
  ASSERT_TRUE(first.ok()) << first.status();
  Leave("b");
  while ((*first)->Held().ok()) SystemClock().SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE(absl::IsAborted((*first)->Held()));
  EXPECT_THAT(std::string((*first)->Held().message()), HasSubstr("taken by somebody, pid 7"));
  first->reset();
  EXPECT_TRUE(fs::exists(file()));
}

TEST_F(RunLeaseTest, AFileThatIsNoLeaseIsTakenOnceItDoesNotChange) {
  std::ofstream(file()) << "{";
  EXPECT_TRUE(Take("a").ok());
}

}  // namespace
}  // namespace palimpsest::tools
