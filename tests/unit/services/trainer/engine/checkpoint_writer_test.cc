#include "services/trainer/engine/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/weights/durable_file.h"

namespace palimpsest::trainer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest()
      : root_(::testing::TempDir() + "writer_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
  }
  ~CheckpointWriterTest() override { fs::remove_all(root_); }

  static CheckpointState State(int64_t step) {
    CheckpointState state{.updates = step};
    for (int64_t i = 1; i <= step; ++i) state.ledger.Add({.step = i, .batch_id = "b"});
    return state;
  }
  void Note(const std::string& what) {
    const absl::MutexLock lock(&mu_);
    notes_.push_back(what);
  }
  // A save whose part waits for `go_on`, then ends with `status`.
  absl::Status Begin(int64_t step, absl::Notification& go_on, const absl::Status& status = {}) {
    return writer_.Begin(State(step), [&, step, status]() -> absl::StatusOr<CheckpointPart> {
      Note("copy " + std::to_string(step));
      return [&, step, status](const std::string& folder) -> absl::Status {
        go_on.WaitForNotification();
        RETURN_IF_ERROR(weights::WriteFileDurably(folder + "/data", std::to_string(step)));
        Note("write " + std::to_string(step));
        return status;
      };
    });
  }
  // Folders that are no longer being written.
  std::vector<std::string> There() const {
    std::vector<std::string> there;
    const auto listed = weights::ListFolder(root_);
    for (const std::string& name : listed.value_or(std::vector<std::string>())) {
      if (!name.starts_with(weights::kTemporaryPrefix)) there.push_back(name);
    }
    return there;
  }

  const std::string root_;
  absl::Mutex mu_;
  std::vector<std::string> notes_;
  CheckpointWriter writer_{CheckpointFolder(root_, {}), 0, SystemClock(), Alone()};
};

TEST_F(CheckpointWriterTest, ItReturnsWhileThePartIsWrittenAndTellsWhatIsDurable) {
  absl::Notification go_on;
  ASSERT_TRUE(Begin(3, go_on).ok());
  EXPECT_TRUE(writer_.Meet().ok());
  EXPECT_EQ(writer_.durable_step(), 0);
  EXPECT_EQ(writer_.saving_step(), 3);
  EXPECT_THAT(There(), IsEmpty());
  go_on.Notify();
  ASSERT_TRUE(writer_.Wait().ok());
  EXPECT_EQ(writer_.durable_step(), 3);
  EXPECT_THAT(There(), ElementsAre("step-00000003"));
  fs::remove_all(root_ + "/step-00000003");
  ASSERT_TRUE(writer_.Look().ok());
  EXPECT_EQ(writer_.durable_step(), 0);
  EXPECT_EQ(writer_.saving_step(), 0);
}

TEST_F(CheckpointWriterTest, ASaveWaitsForTheOneBeforeItCopies) {
  absl::Notification first, second;
  second.Notify();
  ASSERT_TRUE(Begin(1, first).ok());
  std::thread opens([&] { first.Notify(); });
  ASSERT_TRUE(Begin(2, second).ok());
  ASSERT_TRUE(writer_.Wait().ok());
  opens.join();
  EXPECT_THAT(notes_, ElementsAre("copy 1", "write 1", "copy 2", "write 2"));
  EXPECT_THAT(There(), ElementsAre("step-00000001", "step-00000002"));
}

TEST_F(CheckpointWriterTest, AWriteThatFailsIsToldCountedAndLeavesWhatWasDurable) {
  absl::Notification go_on;
  go_on.Notify();
  ASSERT_TRUE(Begin(1, go_on).ok());
  ASSERT_TRUE(Begin(2, go_on, absl::ResourceExhaustedError("disk full")).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(writer_.Wait()));
  EXPECT_EQ(writer_.failures(), 1);
  EXPECT_EQ(writer_.durable_step(), 1);
  EXPECT_EQ(writer_.saving_step(), 1) << "the next step tries again";
  EXPECT_THAT(*weights::ListFolder(root_), ElementsAre("step-00000001"));
  const auto copy = []() -> absl::StatusOr<CheckpointPart> {
    return absl::InternalError("no memory");
  };
  ASSERT_TRUE(writer_.Begin(State(3), copy).ok());
  EXPECT_TRUE(absl::IsInternal(writer_.Wait()));
  EXPECT_EQ(writer_.failures(), 2);
  ASSERT_TRUE(Begin(3, go_on).ok());
  EXPECT_TRUE(writer_.Wait().ok());
  EXPECT_EQ(writer_.durable_step(), 3);
}

}  // namespace
}  // namespace palimpsest::trainer
