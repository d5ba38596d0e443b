#include "common/rpc/address.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/time/clock.h"

namespace palimpsest {
namespace {

class AddressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/address_test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    run_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(run_); }

  std::string run_;
};

TEST_F(AddressTest, WhatIsWrittenIsRead) {
  const Address address{"127.0.0.1:4711", 99};
  EXPECT_EQ(ReadAddress(run_, "trainer", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteAddress(run_, "trainer", 0, address).ok());
  EXPECT_EQ(ReadAddress(run_, "trainer", 0).value(), address);
  EXPECT_EQ(ReadAddress(run_, "trainer", 1).status().code(), absl::StatusCode::kNotFound);
  const Address next{"[::1]:4712", 100};
  ASSERT_TRUE(WriteAddress(run_, "trainer", 0, next).ok());
  EXPECT_EQ(ReadAddress(run_, "trainer", 0).value(), next);
}

TEST_F(AddressTest, WhereItsMetricsAreStandsBesideIt) {
  const Address own = OwnAddress("10.0.0.7:4711", "127.0.0.1", 9101).value();
  EXPECT_EQ(own, (Address{"10.0.0.7:4711", getpid(), "127.0.0.1:9101"}));
  EXPECT_EQ(OwnAddress("10.0.0.7:4711", "0.0.0.0", 9101)->metrics, "10.0.0.7:9101");
  EXPECT_EQ(OwnAddress("[fe80::1]:4711", "::", 9101)->metrics, "[fe80::1]:9101");
  ASSERT_TRUE(WriteAddress(run_, "env", 0, own).ok());
  EXPECT_EQ(ReadAddress(run_, "env", 0).value(), own);
  std::ifstream file(run_ + "/addresses/env-0");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(text, "10.0.0.7:4711\nmetrics 127.0.0.1:9101\npid " + std::to_string(getpid()) + "\n");
}

TEST_F(AddressTest, NothingButTheFileIsLeftInTheFolder) {
  ASSERT_TRUE(WriteAddress(run_, "env", 3, {"h:1", 1}).ok());
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(run_ + "/addresses")) {
    ++files;
    EXPECT_EQ(entry.path().filename(), "env-3");
  }
  EXPECT_EQ(files, 1);
}

TEST_F(AddressTest, RemovalSparesTheSuccessor) {
  ASSERT_TRUE(WriteAddress(run_, "env", 0, {"h:1", 2}).ok());
  ASSERT_TRUE(RemoveAddress(run_, "env", 0, 1).ok());
  EXPECT_TRUE(ReadAddress(run_, "env", 0).ok());
  ASSERT_TRUE(RemoveAddress(run_, "env", 0, 2).ok());
  EXPECT_FALSE(ReadAddress(run_, "env", 0).ok());
  EXPECT_TRUE(RemoveAddress(run_, "env", 0, 2).ok());
}

TEST_F(AddressTest, WaitingEndsWhenTheDaemonCameUp) {
  std::thread daemon([&] {
    absl::SleepFor(absl::Milliseconds(150));
    EXPECT_TRUE(WriteAddress(run_, "env", 0, {"h:1", 1}).ok());
  });
  const absl::StatusOr<Address> address =
      WaitForAddress(run_, "env", 0, absl::Now() + absl::Seconds(20), SystemClock());
  daemon.join();
  EXPECT_EQ(address.value().host_port, "h:1");
}

TEST_F(AddressTest, WaitingEndsAtItsDeadline) {
  const absl::StatusOr<Address> address =
      WaitForAddress(run_, "env", 0, absl::Now() + absl::Milliseconds(150), SystemClock());
  EXPECT_EQ(address.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(AddressTest, BrokenFilesAndNamesAreErrors) {
  std::filesystem::create_directories(run_ + "/addresses");
  for (const char* text : {"", "h:1", "h:1\npid\n", "h:1\npid x\n", "h:1\npid 5", "\npid 5\n",
                           "h:1\nmetrics h:2\n", "h:1\npid 5\nmetrics h:2\n"}) {
    std::ofstream(run_ + "/addresses/env-0") << text;
    EXPECT_EQ(
        WaitForAddress(run_, "env", 0, absl::Now() + absl::Hours(1), SystemClock()).status().code(),
        absl::StatusCode::kDataLoss)
        << text;
  }
  EXPECT_FALSE(WriteAddress(run_, "../env", 0, {"h:1", 1}).ok());
  EXPECT_FALSE(WriteAddress(run_, "env", -1, {"h:1", 1}).ok());
  EXPECT_FALSE(WriteAddress(run_, "env", 0, {"", 1}).ok());
  EXPECT_FALSE(WriteAddress(run_, "env", 0, {"h:1", 0}).ok());
}

TEST_F(AddressTest, AReaderNeverSeesHalfAFile) {
  ASSERT_TRUE(WriteAddress(run_, "env", 0, {"first:1", 1}).ok());
  std::thread writer([&] {
    for (int i = 1; i <= 100; ++i) {
      EXPECT_TRUE(WriteAddress(run_, "env", 0, {"host:" + std::to_string(i), i}).ok());
    }
  });
  for (int i = 0; i < 500; ++i) {
    const absl::StatusOr<Address> address = ReadAddress(run_, "env", 0);
    EXPECT_TRUE(address.ok()) << address.status();
  }
  writer.join();
}

}  // namespace
}  // namespace palimpsest
