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

// A lost turn is never a reward: an episode without a whole response is played again from its
// start, with the same draws.
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

// What the rows of all RL steps say, but for what a try is called by.
std::vector<std::string> Told(const Ledger& ledger) {
  std::vector<std::string> told;
  for (int64_t step = 5; step <= 8; ++step) {
    const auto members = ledger.Members(step);
    EXPECT_TRUE(members.ok()) << members.status();
    for (const RolloutRow& row : *members) {
      told.push_back(absl::StrFormat("%d.%d %s %g %s %d", row.group, row.sample, row.text,
                                     row.reward.value_or(-1), row.episode.state, row.turns));
    }
  }
  return told;
}

// Replicas go away in the middle of episodes: nothing that was said is said again.
TEST_F(TurnsRunTest, AnEpisodeThatIsCutGoesOnBehindItsLastWholeResponse) {
  ASSERT_TRUE(Attempt().ok());
  const auto undisturbed = Told(**Ledger::Open(folder_ + "/ledger.sqlite", "test", 11));
  const int said = world_->said();
  for (std::atomic<int> FakeWorld::*fault : {&FakeWorld::cut_turns, &FakeWorld::lost_turns}) {
    NewWorld();
    std::atomic<bool> away = false;
    world_->before_generate = [&] {
      if (world_->TrainedBatches().size() == 5 && !away.exchange(true)) world_.get()->*fault = 3;
    };
    plan_.rl.max_tries = 4;  // one may be cut twice in a turn
    ASSERT_TRUE(Attempt().ok());
    ExpectWhole();
    EXPECT_EQ(world_->continued(), 3);
    EXPECT_EQ(world_->said(), said);
    EXPECT_EQ(world_->open_sessions(), 0u);
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    EXPECT_EQ(Told(**ledger), undisturbed);
    EXPECT_FALSE((*ledger)->Counts()->contains("cancelled")) << "none is lost";
    EXPECT_FALSE((*ledger)->Counts()->contains("infra_failed")) << "none is lost";
    EXPECT_GE((*ledger)->Counts()->at("continued"), 1);
  }
}

TEST_F(TurnsRunTest, ALogThatInferenceRefusesIsOfNoUseAndItsEpisodeBeginsAnew) {
  world_->cut_turns = 3;
  world_->refuse_begun = true;
  plan_.rl.max_tries = 4;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_EQ(world_->continued(), 0);
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  EXPECT_FALSE((*ledger)->Counts()->contains("continued"));
}

// A stop at any moment of the first two steps of RL: whole responses stand in the ledger, with the
// episode as it was before the environment heard of the last one.
TEST_F(TurnsRunTest, AStopKeepsWholeResponsesAndALaterAttemptGoesOnFromThem) {
  ASSERT_TRUE(Attempt().ok());
  const auto undisturbed = Told(**Ledger::Open(folder_ + "/ledger.sqlite", "test", 11));
  const int said = world_->said();
  std::set<int32_t> responses;
  for (int calls = 1; calls <= 23; calls += 2) {
    NewWorld();
    {
      const auto run = Open();
      ASSERT_TRUE(run.ok());
      std::atomic<int> left = calls;
      world_->before_generate = [&] {
        if (world_->TrainedBatches().size() >= 5 && --left == 0) (*run)->Stop();
      };
      EXPECT_TRUE((*run)->Execute().ok());
      EXPECT_FALSE((*run)->Finished());
      world_->before_generate = nullptr;
    }
    const int before = world_->said();
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    for (int64_t group = 0; group < 8; ++group) {
      const auto cut = (*ledger)->Cut(group);
      ASSERT_TRUE(cut.ok()) << cut.status();
      for (const CutRow& row : *cut) {
        responses.insert(row.responses);
        EXPECT_EQ(std::count(row.episode.state.begin(), row.episode.state.end(), ';'),
                  row.responses - 1);
        EXPECT_EQ(row.episode.task, "talk");
        EXPECT_FALSE(row.text.empty());
      }
    }
    ASSERT_TRUE(Attempt().ok());
    ExpectWhole();
    EXPECT_EQ(Told(**ledger), undisturbed);
    EXPECT_EQ(world_->said(), said) << "stopped after " << before;
    for (int64_t group = 0; group < 8; ++group) EXPECT_TRUE((*ledger)->Cut(group)->empty());
  }
  EXPECT_THAT(responses, testing::IsSupersetOf({1, 2}));
}

}  // namespace
}  // namespace palimpsest::orchestrator
