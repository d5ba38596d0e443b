#include "services/orchestrator/engine/curve_record.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace palimpsest::orchestrator {
namespace {

namespace fs = std::filesystem;

// Read back with TensorBoard's own reader by tests/integration/tensorboard.
class CurveRecordTest : public testing::Test {
 protected:
  CurveRecordTest()
      : folder_(testing::TempDir() + "/record-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ledger_ = Ledger::Open(folder_ + "/ledger.sqlite", "run", 3).value();
    EXPECT_TRUE(ledger_->BeginStage("rl", 0).ok());
  }
  ~CurveRecordTest() override { fs::remove_all(folder_); }

  void Train(int64_t step) {
    StepRow row{.step = step, .stage = "rl", .reward = 0.5};
    ASSERT_TRUE(ledger_->MarkTrained(row).ok());
  }
  void Measure(const std::string& name, bool greedy, int prompts) {
    for (int i = 0; i < prompts; ++i) {
      ASSERT_TRUE(ledger_->SaveEvaluation({name, greedy, i, 1}).ok());
    }
  }
  std::unique_ptr<CurveRecord> Open(int attempt) {
    return CurveRecord::Open(folder_, attempt, clock_).value();
  }
  // File name -> the last step in it.
  std::map<std::string, std::optional<int64_t>> Files(const std::string& line) {
    std::map<std::string, std::optional<int64_t>> files;
    for (const auto& entry : fs::directory_iterator(folder_ + "/tensorboard/" + line)) {
      files[entry.path().filename()] = LastStepOfEventFile(entry.path());
    }
    return files;
  }

  std::string folder_;
  FakeClock clock_{absl::FromUnixSeconds(1234567890)};
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(CurveRecordTest, AnAttemptGoesOnAfterWhatStandsWholeAndMakesItsOwnFile) {
  for (const int64_t step : {1, 2, 3}) Train(step);
  auto first = Open(0);
  ASSERT_TRUE(first->Update().ok());
  ASSERT_TRUE(first->Update().ok());  // adds nothing
  const std::string name = "events.out.tfevents.1234567890.attempt-0";
  EXPECT_EQ(Files("train"), (std::map<std::string, std::optional<int64_t>>{{name, 3}}));
  first = nullptr;
  const std::string path = folder_ + "/tensorboard/train/" + name;
  fs::resize_file(path, fs::file_size(path) - 3);  // killed while it wrote
  Train(4);
  auto second = Open(1);
  EXPECT_EQ(Files("train").size(), 1u);  // nothing to say yet
  ASSERT_TRUE(second->Update().ok());
  EXPECT_EQ(Files("train")["events.out.tfevents.1234567890.attempt-1"], 4);
  EXPECT_EQ(Files("train")[name], 2);
}

TEST_F(CurveRecordTest, AnEvaluationIsToldOnceAllItsPromptsAreMeasured) {
  const auto record = Open(0);
  ASSERT_TRUE(ledger_->BeginStage("heldout.first", 0).ok());
  Measure("first", false, 3);
  Measure("first", true, 3);
  ASSERT_TRUE(record->Update().ok());
  EXPECT_TRUE(Files("heldout").empty());
  ASSERT_TRUE(ledger_->EndStage("heldout.first", 0).ok());
  ASSERT_TRUE(record->Update().ok());
  EXPECT_EQ(Files("heldout").begin()->second, 0);
  Measure("step-5", false, 3);
  Measure("step-5", true, 2);
  Measure("also.none", false, 3);
  Measure("also.none", true, 3);
  Train(6);
  ASSERT_TRUE(record->Update().ok());
  EXPECT_EQ(Files("heldout").begin()->second, 0);
  Measure("step-5", true, 3);
  Train(7);
  ASSERT_TRUE(record->Update().ok());
  EXPECT_EQ(Files("heldout").begin()->second, 5);
}

}  // namespace
}  // namespace palimpsest::orchestrator
