#include "common/collective/meeting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace palimpsest {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class MeetingTest : public ::testing::Test {
 protected:
  MeetingTest() : folder_(::testing::TempDir() + "meeting-" + std::to_string(getpid())) {
    fs::remove_all(folder_);
  }
  ~MeetingTest() override { fs::remove_all(folder_); }

  absl::StatusOr<std::string> Come(int rank, int size = 2,
                                   absl::Duration patience = absl::Seconds(20)) const {
    return Meet({.folder = folder_, .rank = rank, .size = size, .patience = patience},
                SystemClock());
  }
  // All ranks of one life.
  std::vector<absl::StatusOr<std::string>> MeetAll(int size) const {
    std::vector<absl::StatusOr<std::string>> lives(size, absl::UnknownError(""));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] { lives[rank] = Come(rank, size); });
    }
    for (std::thread& thread : threads) thread.join();
    return lives;
  }

  const std::string folder_;
};

TEST_F(MeetingTest, EachLifeHasAFolderOfItsOwnWhateverTheLastOneLeft) {
  std::string last;
  for (const int size : {3, 3, 2}) {
    const auto lives = MeetAll(size);
    for (const auto& life : lives) {
      ASSERT_TRUE(life.ok()) << life.status();
      EXPECT_EQ(*life, *lives[0]);
    }
    EXPECT_NE(*lives[0], last);
    EXPECT_FALSE(!last.empty() && fs::exists(last));
    last = *lives[0];
  }
}

TEST_F(MeetingTest, WhoComesBackFindsNoWayIntoALifeThatIsComplete) {
  ASSERT_TRUE(MeetAll(2)[0].ok());
  const absl::Status alone = Come(1, 2, absl::Milliseconds(300)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(alone));
  EXPECT_THAT(std::string(alone.message()), HasSubstr("rank 0, or one that it waits for, of 2"));
}

TEST_F(MeetingTest, ALifeWhoseRank0DiedBeforeAllHadComeIsLeftForTheNextOne) {
  fs::create_directories(folder_ + "/life-dead");
  std::ofstream(folder_ + "/current") << "life-dead 2";
  absl::StatusOr<std::string> second = absl::UnknownError("");
  std::thread early([&] { second = Come(1); });
  while (!fs::exists(folder_ + "/life-dead/came-1")) std::this_thread::yield();
  const auto first = Come(0);
  early.join();
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(*first, *second);
}

TEST_F(MeetingTest, WhoDoesNotComeIsNamed) {
  const absl::Status missing = Come(0, 3, absl::Milliseconds(200)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("rank 1 of 3 has not come"));
}

TEST_F(MeetingTest, AWaitThatIsGivenUpIsCancelled) {
  EXPECT_TRUE(absl::IsCancelled(
      Meet({.folder = folder_, .rank = 1, .size = 2, .give_up = [] { return true; }}, SystemClock())
          .status()));
}

}  // namespace
}  // namespace palimpsest
