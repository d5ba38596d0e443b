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
  // As after the end of the process that held the run: this one holds the former file's lock still.
  absl::StatusOr<Attempt> Next() {
    fs::remove(folder_ + "/launch.lock");
    return BeginAttempt(folder_);
  }
  const std::string folder_;
};

TEST_F(RunFolderTest, AttemptsAreNumberedAndLatestIsTheLast) {
  for (const int number : {1, 2, 3}) {
    const absl::StatusOr<Attempt> attempt = Next();
    ASSERT_TRUE(attempt.ok()) << attempt.status();
    EXPECT_EQ(attempt->number, number);
    EXPECT_TRUE(fs::equivalent(attempt->folder, folder_ + "/logs/latest"));
    EXPECT_EQ(attempt->LogOf("env-0"), attempt->folder + "/env-0.log");
  }
  fs::create_directories(folder_ + "/logs/attempt-041");
  EXPECT_EQ(Next()->number, 42) << "one above the highest, gaps or not";
}

TEST_F(RunFolderTest, ASecondLaunchOfARunIsRefusedAndChangesNothing) {
  ASSERT_TRUE(BeginAttempt(folder_).ok());
  std::ofstream(folder_ + "/addresses/env-0") << "new";
  EXPECT_TRUE(absl::IsFailedPrecondition(BeginAttempt(folder_).status()));
  EXPECT_FALSE(fs::exists(folder_ + "/logs/attempt-002"));
  EXPECT_TRUE(fs::exists(folder_ + "/addresses/env-0"));
}

TEST_F(RunFolderTest, AFileInItsPlaceIsNamedByItsKey) {
  const std::string file = folder_ + "/a-file";
  std::ofstream(file) << "text";
  const std::string said(BeginAttempt(file).status().message());
  EXPECT_EQ(said.find("run.folder=" + file + ": "), 0u) << said;
}

TEST_F(RunFolderTest, AddressesGoAndTheirFolderStays) {
  std::ofstream(folder_ + "/addresses/env-0") << "old";
  ASSERT_TRUE(BeginAttempt(folder_).ok());
  EXPECT_TRUE(fs::is_empty(folder_ + "/addresses"));
}

}  // namespace
}  // namespace palimpsest::tools
