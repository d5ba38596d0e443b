#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/telemetry/log.h"
#include "nlohmann/json.hpp"
#include "services/orchestrator/engine/run.h"
#include "tests/unit/services/orchestrator/engine/fake_world.h"

namespace palimpsest::orchestrator {

// sft a (2 steps), sft b (2, with a gate), rl (4 steps of 2 groups of 2), 3 held-out prompts.
inline RunPlan SmallPlan() {
  RunPlan plan;
  plan.tasks = {"registers"};
  plan.stop_strings = {"$"};
  plan.contexts["am"].trigger = context::KvBudget{56, 28, 0.43};
  plan.sft = {{.name = "a", .max_steps = 2, .batch = 2, .learning_rate = {1e-2, 1e-3}},
              {.name = "b", .max_steps = 2, .batch = 2, .contexts = {"none", "am"}}};
  plan.sft[1].gate = GateConfig{.context = "am", .greedy_reward = 0.99, .every = 1, .prompts = 2};
  plan.rl.steps = 4;
  plan.rl.prompts_per_batch = 2;
  plan.rl.samples = 2;
  plan.rl.max_in_flight = 4;
  plan.rl.context = "am";
  plan.heldout = {.prompts = 3, .also = {"none"}};
  plan.peers.patience = absl::Seconds(20);
  plan.peers.poll = absl::Milliseconds(1);
  plan.peers.max_poll = absl::Milliseconds(2);
  return plan;
}

inline const std::vector<std::string> kAllBatches = {"a.0",  "a.1",  "b.0",  "b.1",
                                                     "rl.0", "rl.1", "rl.2", "rl.3"};

class RunTest : public testing::Test {
 protected:
  RunTest()
      : folder_(testing::TempDir() + "/run-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    NewWorld();
  }
  ~RunTest() override { std::filesystem::remove_all(folder_); }

  void NewWorld() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    world_ = std::make_unique<FakeWorld>(folder_);
  }

  absl::StatusOr<std::unique_ptr<orchestrator::Run>> Open() {
    metrics_ = std::make_unique<Metrics>("orchestrator", "test", SystemClock());
    return orchestrator::Run::Open(plan_, {"test", folder_, 11, "the command"}, world_->peers(),
                                   *metrics_, SystemClock());
  }

  absl::Status Attempt() {
    ASSIGN_OR_RETURN(const auto run, Open());
    return run->Execute();
  }

  std::string ReadFile(const std::string& name) {
    std::ifstream file(folder_ + "/report/" + name);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  void ExpectWhole() {
    EXPECT_EQ(world_->TrainedBatches(), kAllBatches);
    EXPECT_EQ(world_->changed_batches(), 0);
    EXPECT_EQ(world_->trained_prompts(), (std::multiset<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
    const auto report = nlohmann::json::parse(ReadFile("report.json"), nullptr, false);
    ASSERT_FALSE(report.is_discarded());
    EXPECT_EQ(report["steps"], 4);
    EXPECT_EQ(report["sft_steps"], 4);
    EXPECT_EQ(report["heldout_n"], 3);
    EXPECT_GT(report["reward_last"].get<double>(), report["reward_first"].get<double>());
  }

  // As kill -9 between any two calls: what a dead process would not have done is not done, and the
  // next attempt knows only the disk. One life in `stride`, up to one that nothing killed.
  void DieAnywhere(int stride, int max_calls) {
    int died = 0;
    for (int calls = 0; calls < max_calls; calls += stride) {
      NewWorld();
      world_->DieAfter(calls);
      const absl::Status first = Attempt();
      if (world_->dead()) {
        ++died;
        EXPECT_FALSE(first.ok());
        world_->Revive();
        const absl::Status second = Attempt();
        ASSERT_TRUE(second.ok()) << second << " after " << calls << " calls";
      }
      ExpectWhole();
      EXPECT_EQ(world_->open_sessions(), 0u);
      if (!world_->dead() && first.ok()) break;
    }
    EXPECT_GT(died, 5);
  }

  std::string folder_;
  RunPlan plan_ = SmallPlan();
  std::unique_ptr<FakeWorld> world_;
  std::unique_ptr<Metrics> metrics_;
  ScopedLogSink quiet_{[](const std::string&) {}};
};

}  // namespace palimpsest::orchestrator
