#include "services/orchestrator/engine/step_trace.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace palimpsest::orchestrator {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class StepTraceTest : public testing::Test {
 protected:
  StepTraceTest()
      : folder_(testing::TempDir() + "/trace-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ledger_ = Ledger::Open(folder_ + "/ledger.sqlite", "run", 3).value();
  }
  ~StepTraceTest() override { fs::remove_all(folder_); }

  void Train(int64_t step) {
    const GroupRow group = ledger_->OpenGroup("task").value();
    RolloutRow row{.id = "r" + std::to_string(step), .group = group.id};
    ASSERT_TRUE(ledger_->Accept(group.id, {row}, true, absl::FromUnixSeconds(1)).ok());
    BatchRow batch{.step = step, .id = "b" + std::to_string(step), .stage = "rl"};
    batch.kind = BatchKind::kRl;
    ASSERT_TRUE(ledger_->CommitRlBatch(batch, {group.id}, {}).ok());
    ASSERT_TRUE(ledger_->MarkTrained({.step = step, .stage = "rl"}).ok());
  }
  static CallSpan Call(const TraceScope::Work& work, const std::string& method, int64_t at) {
    return {.trace = work.id,
            .part = work.part,
            .method = "/palimpsest.v1." + method,
            .begin = absl::FromUnixMicros(at),
            .length = absl::Microseconds(10),
            .ok = true,
            .served = CallSpan::Served{absl::FromUnixMicros(at + 2), absl::Microseconds(5)}};
  }
  json Read(int64_t step) {
    std::ifstream file(folder_ + "/trace/step_" + std::to_string(step) + ".json");
    return file ? json::parse(file) : json();
  }

  std::string folder_;
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(StepTraceTest, AFileHoldsTheCallsOfItsStepAndOfTheGroupsInItsBatch) {
  StepTrace trace(folder_, 3, 2);
  ASSERT_TRUE(trace.Update(false).ok());
  for (const int64_t step : {1, 2, 3}) {
    Train(step);  // of group step - 1
    trace.Take(Call(trace.OfGroup(step - 1, step), "EnvironmentService/Reset", 100 * step));
    trace.Take(Call(trace.OfGroup(step - 1, step), "InferenceService/Generate", 100 * step + 20));
    trace.Take(Call(trace.OfStep(step), "TrainerService/TrainBatch", 100 * step + 40));
  }
  ASSERT_TRUE(trace.Update(false).ok());
  EXPECT_TRUE(Read(1).is_null());  // every second step
  EXPECT_TRUE(Read(3).is_null());
  std::map<int, std::string> process;
  std::set<std::string> ids;
  std::vector<std::string> calls;
  const json file = Read(2);
  for (const json& event : file["traceEvents"]) {
    const int pid = event["pid"].get<int>();
    if (event["name"] == "process_name") process[pid] = event["args"]["name"].get<std::string>();
    if (event["ph"] != "X") continue;
    ids.insert(event["args"]["trace"].get<std::string>());
    calls.push_back(process[pid] + " " + event["name"].get<std::string>() + " " +
                    event["ts"].dump() + " " + event["dur"].dump());
  }
  EXPECT_EQ(calls, (std::vector<std::string>{
                       "orchestrator Trainer.TrainBatch 240 10", "Trainer TrainBatch 242 5",
                       "orchestrator Environment.Reset 200 10", "Environment Reset 202 5",
                       "orchestrator Inference.Generate 220 10", "Inference Generate 222 5"}));
  EXPECT_EQ(ids, (std::set<std::string>{trace.OfStep(2).id.Hex()}));
}

TEST_F(StepTraceTest, TheNewestStepWaitsForItsWeightsUntilTheRunEnds) {
  StepTrace trace(folder_, 3, 1);
  ASSERT_TRUE(trace.Update(false).ok());
  Train(1);
  ASSERT_TRUE(trace.Update(false).ok());
  EXPECT_TRUE(Read(1).is_null());
  ASSERT_TRUE(trace.Update(true).ok());
  EXPECT_FALSE(Read(1).is_null());
}

TEST_F(StepTraceTest, IdsFollowFromSeedAndNumber) {
  StepTrace a(folder_, 3, 1), b(folder_, 3, 7), other(folder_, 4, 1);
  EXPECT_EQ(a.OfStep(5).id, b.OfStep(5).id);
  EXPECT_EQ(a.OfStep(5).id, a.OfGroup(9, 5).id);
  EXPECT_NE(a.OfStep(5).id, a.OfStep(6).id);
  EXPECT_NE(a.OfStep(5).id, other.OfStep(5).id);
}

TEST_F(StepTraceTest, OnlyTheNewestSpansAreKept) {
  StepTrace trace(folder_, 3, 1);
  ASSERT_TRUE(trace.Update(false).ok());
  Train(1);
  for (size_t i = 0; i < StepTrace::kMaxSpans; ++i) {
    trace.Take(Call(trace.OfGroup(0, 1), "EnvironmentService/Score", static_cast<int64_t>(i)));
  }
  for (int i = 0; i < 7; ++i) trace.Take(Call(trace.OfGroup(9, 2), "EnvironmentService/Score", 1));
  ASSERT_TRUE(trace.Update(true).ok());
  size_t spans = 0;
  const json file = Read(1);
  for (const json& event : file["traceEvents"]) spans += event["ph"] == "X";
  EXPECT_EQ(spans, 2 * (StepTrace::kMaxSpans - 7));
}

}  // namespace
}  // namespace palimpsest::orchestrator
