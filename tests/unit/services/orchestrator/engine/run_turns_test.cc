#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_format.h"
#include "tests/unit/services/orchestrator/engine/run_fixture.h"

namespace palimpsest::orchestrator {
namespace {

// The same run over a task of three turns.
class TurnsRunTest : public RunTest {
 protected:
  TurnsRunTest() { plan_.tasks = {"talk"}; }
};

// All say equally much, so the weighted baseline is the mean, whatever the environment has added.
TEST_F(TurnsRunTest, WhatTheEnvironmentSaysIsNoLengthOfAResponse) {
  world_->long_observations = true;
  plan_.rl.advantage.kind = rl::AdvantageKind::kLengthWeighted;
  ASSERT_TRUE(Attempt().ok());
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  const auto members = (*ledger)->Members(5);  // the first RL step
  ASSERT_TRUE(members.ok());
  std::map<int64_t, double> sums;
  std::set<int32_t> totals;
  for (const RolloutRow& row : *members) {
    sums[row.group] += row.advantage.value_or(NAN);
    totals.insert(row.total_tokens);
  }
  EXPECT_GT(totals.size(), 1u);
  for (const auto& [group, sum] : sums) EXPECT_NEAR(sum, 0, 1e-12) << group;
}

TEST_F(TurnsRunTest, EpisodesOverSessionsGoThroughAllStagesAndLeaveNoneOpen) {
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_EQ(world_->open_sessions(), 0u);
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  const auto members = (*ledger)->Members(5);  // the first RL step
  ASSERT_TRUE(members.ok());
  ASSERT_EQ(members->size(), 4u);
  for (const RolloutRow& row : *members) {
    EXPECT_EQ(row.turns, 3);
    EXPECT_EQ(row.text, absl::StrFormat("%s>%s>%s", row.text.substr(0, 3), row.text.substr(0, 3),
                                        row.text.substr(0, 3)));
    const auto rollout = world_->peers().codec.Decode(row.bytes);
    ASSERT_TRUE(rollout.ok()) << rollout.status();
    EXPECT_EQ(std::count(rollout->origins.begin(), rollout->origins.end(), rl::Origin::kInjected),
              2);
  }
  EXPECT_NE((*members)[0].reward, (*members)[1].reward) << "each sample has its own seed";
  EXPECT_EQ((*ledger)->Steps()->back().turns, 3);
  EXPECT_EQ((*ledger)->Evaluations("last", true)->front().turns, 3);
  EXPECT_EQ(nlohmann::json::parse(ReadFile("report.json"))["turns_per_rollout"], 3);
}

TEST_F(TurnsRunTest, DemonstrationsAreLearntButForWhatTheEnvironmentSays) {
  ASSERT_TRUE(Attempt().ok());
  v1::TrainBatchRequest batch;
  ASSERT_TRUE(batch.ParseFromString(world_->contents().at(1)));
  ASSERT_EQ(batch.items_size(), 2);
  for (const v1::TrainItem& item : batch.items()) {
    const v1::SftItem& sft = item.sft();
    const std::string text(sft.ids().begin(), sft.ids().end());
    const std::string prompt = text.substr(0, text.find(':') + 1);
    const std::string demo = text.substr(prompt.size(), text.find('$') + 1 - prompt.size());
    EXPECT_EQ(text, prompt + demo + ">" + demo + ">" + demo);
    EXPECT_EQ(sft.prompt_tokens(), static_cast<int32_t>(prompt.size()));
    for (int i = 0; i < sft.ids_size(); ++i) {
      EXPECT_EQ(sft.loss_mask(i), i >= sft.prompt_tokens() && text[i] != '>') << i;
    }
    ASSERT_EQ(sft.turn_begins_size(), 3);
    EXPECT_EQ(sft.turn_begins(0), sft.prompt_tokens());
    EXPECT_EQ(text[sft.turn_begins(1)], '>');
    EXPECT_EQ(text[sft.turn_begins(2)], '>');
  }
}

TEST_F(TurnsRunTest, KilledAnywhereItGoesOnWhereItWas) { DieAnywhere(29, 900); }

// A lost turn is never a reward: the episode is played again from its start, with the same draws.
TEST_F(TurnsRunTest, AnEpisodeThatLostATurnIsPlayedAgain) {
  ASSERT_TRUE(Attempt().ok());
  const std::map<int64_t, std::string> undisturbed = world_->contents();
  const int sessions = world_->made_sessions();
  for (std::atomic<int> FakeWorld::*fault :
       {&FakeWorld::lost_samples, &FakeWorld::lost_sessions, &FakeWorld::raised}) {
    NewWorld();
    // Demonstrations are stepped, too, and a task that fails there fails the run.
    if (fault == &FakeWorld::raised) plan_.sft.clear();
    world_.get()->*fault = 4;
    const absl::Status status = Attempt();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(world_->open_sessions(), 0u);
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    ASSERT_TRUE(ledger.ok());
    EXPECT_EQ((*ledger)->Counts()->at("ok"), 16);
    if (fault == &FakeWorld::raised) {
      EXPECT_EQ((*ledger)->Counts()->at("task_failed"), 4);
      continue;
    }
    ExpectWhole();
    EXPECT_EQ((*ledger)->Counts()->at("infra_failed"), 4);
    EXPECT_EQ(world_->made_sessions(), sessions + 4);
    EXPECT_EQ(world_->contents().size(), undisturbed.size());
  }
}

}  // namespace
}  // namespace palimpsest::orchestrator
