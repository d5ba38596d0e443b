#include "tools/launch/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public ::testing::Test {
 protected:
  RunFolderTest() : folder_(::testing::TempDir() + "run-folder-" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_ + "/addresses");
  }
  ~RunFolderTest() override { fs::remove_all(folder_); }
  const std::string folder_;
};

TEST_F(RunFolderTest, AttemptsAreNumberedAndLatestIsTheLast) {
  ASSERT_TRUE(LockRun(folder_).ok());
  for (const int number : {1, 2, 3}) {
    const absl::StatusOr<Attempt> attempt = BeginAttempt(folder_);
    ASSERT_TRUE(attempt.ok()) << attempt.status();
    EXPECT_EQ(attempt->number, number);
    EXPECT_TRUE(fs::equivalent(attempt->folder, folder_ + "/logs/latest"));
  }
  fs::create_directories(folder_ + "/logs/attempt-041");
  EXPECT_EQ(BeginAttempt(folder_)->number, 42) << "one above the highest, gaps or not";
}

TEST_F(RunFolderTest, ASecondLaunchOfARunIsRefused) {
  ASSERT_TRUE(LockRun(folder_).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(LockRun(folder_)));
}

TEST_F(RunFolderTest, AddressesGoAndTheirFolderStays) {
  std::ofstream(folder_ + "/addresses/env-0") << "old";
  ForgetAddresses(folder_);
  EXPECT_TRUE(fs::is_empty(folder_ + "/addresses"));
}

}  // namespace
}  // namespace palimpsest::tools
