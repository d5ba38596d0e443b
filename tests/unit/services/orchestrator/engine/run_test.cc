#include "services/orchestrator/engine/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "nlohmann/json.hpp"
#include "tests/unit/services/orchestrator/engine/fake_world.h"

namespace palimpsest::orchestrator {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Le;

// sft a (2 steps), sft b (2, with a gate), rl (4 steps of 2 groups of 2), 3 held-out prompts.
RunPlan SmallPlan() {
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

const std::vector<std::string> kAllBatches = {"a.0",  "a.1",  "b.0",  "b.1",
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

  std::string folder_;
  RunPlan plan_ = SmallPlan();
  std::unique_ptr<FakeWorld> world_;
  std::unique_ptr<Metrics> metrics_;
  ScopedLogSink quiet_{[](const std::string&) {}};
};

TEST_F(RunTest, GoesThroughAllStagesAndReports) {
  const auto run = Open();
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->Execute().ok());
  EXPECT_TRUE((*run)->Finished());
  ExpectWhole();
  EXPECT_THAT(world_->staleness(), Each(0));
  EXPECT_DOUBLE_EQ(world_->rates()[0], 1e-2);
  EXPECT_DOUBLE_EQ(world_->rates()[1], 1e-3);
  const Progress progress = (*run)->Now();
  EXPECT_EQ(progress.phase, Phase::kDone);
  EXPECT_EQ(progress.heldout.size(), 2u);
  const auto page = (*run)->ListRollouts({.limit = 5});
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->rows.size(), 5u);
  EXPECT_TRUE((*run)->GetRollout(page->rows[0].id).ok());
}

TEST_F(RunTest, AFinishedRunThatIsStartedAgainShowsItsSteps) {
  ASSERT_TRUE(Attempt().ok());
  const auto again = Open();
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_TRUE((*again)->Execute().ok());
  const Progress progress = (*again)->Now();
  EXPECT_EQ(progress.phase, Phase::kDone);
  EXPECT_EQ(progress.step, 4);
  EXPECT_EQ(progress.total_steps, 4);
  ExpectWhole();
}

TEST_F(RunTest, TheReportHasTheKeysThatScriptsRead) {
  ASSERT_TRUE(Attempt().ok());
  const auto report = nlohmann::json::parse(ReadFile("report.json"));
  for (const char* key :
       {"reward_first", "reward_last", "greedy_first", "greedy_last", "heldout_reward", "steps",
        "wall_s", "tokens_per_s", "events_per_rollout", "kv_budget", "mean_total_tokens",
        "mismatch_kl", "mismatch_max_abs", "staleness_max", "policy_versions"}) {
    EXPECT_TRUE(report.contains(key) && report[key].is_number()) << key;
  }
  EXPECT_EQ(report["kv_budget"], 56);
  EXPECT_NEAR(report["mismatch_kl"].get<double>(), 2e-6, 1e-12);
  EXPECT_EQ(report["mismatch_max_abs"], 2e-3);
  EXPECT_TRUE(report["heldout_by_context"].contains("none"));
  EXPECT_THAT(ReadFile("learning_curve.svg"), testing::HasSubstr("</svg>"));
  EXPECT_THAT(ReadFile("report.md"), testing::HasSubstr("After RL"));
  const std::string lines = ReadFile("heldout.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3 * 2 * 3);
}

// As kill -9 between any two calls: what a dead process would not have done is not done, and the
// next attempt knows only the disk.
TEST_F(RunTest, KilledAnywhereItGoesOnWhereItWas) {
  int died = 0;
  for (int calls = 0; calls < 400; calls += 7) {
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
    if (!world_->dead() && first.ok()) break;
  }
  EXPECT_GT(died, 5);
}

TEST_F(RunTest, ATrainerThatWasRolledBackGetsTheSameBatchesAgain) {
  int rolled_back = 0;
  for (int calls = 30; calls < 400; calls += 13) {
    NewWorld();
    world_->checkpoint_every = 3;
    world_->DieAfter(calls);
    const absl::Status first = Attempt();
    if (first.ok()) break;
    world_->RollTrainerBack();
    world_->Revive();
    ++rolled_back;
    const absl::Status second = Attempt();
    ASSERT_TRUE(second.ok()) << second << " after " << calls << " calls";
    ExpectWhole();
  }
  EXPECT_GT(rolled_back, 3);
}

TEST_F(RunTest, ARollbackInTheMiddleOfAnAttemptIsHealed) {
  for (const int64_t max_staleness : {0, 1}) {
    NewWorld();
    plan_.rl.max_staleness = max_staleness;
    world_->checkpoint_every = 3;
    const auto run = Open();
    ASSERT_TRUE(run.ok());
    absl::Status status;
    std::thread loop([&] { status = (*run)->Execute(); });
    for (Progress p = (*run)->Now(); !(*run)->Ended() && !(p.phase == Phase::kRl && p.step >= 2);) {
      p = (*run)->WaitForChange(p.sequence, absl::Milliseconds(20));
    }
    world_->RollTrainerBack();
    loop.join();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(world_->TrainedBatches(), kAllBatches);
    EXPECT_EQ(world_->changed_batches(), 0);
  }
}

// Between two batches nothing is asked of the trainer: only the rollouts' version tells that it
// was rolled back. A step that is lost while its successor is generated.
TEST_F(RunTest, ATrainerRolledBackWhileNobodyAsksItIsFoundOut) {
  world_->checkpoint_every = 3;
  const auto run = Open();
  ASSERT_TRUE(run.ok());
  absl::Status status;
  std::atomic<bool> rolled_back = false;
  world_->before_generate = [&] {
    if (!rolled_back && world_->TrainedBatches().size() == 5) {
      rolled_back = world_->RollTrainerBack();
    }
  };
  std::thread loop([&] { status = (*run)->Execute(); });
  for (int i = 0; i < 4000 && !(*run)->Ended(); ++i) SystemClock().SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE((*run)->Ended()) << "it stands still";
  (*run)->Stop();
  loop.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(rolled_back);
  ExpectWhole();
}

TEST_F(RunTest, PeersThatAreAwayForAWhileAreWaitedFor) {
  world_->unavailable = 25;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
}

TEST_F(RunTest, LostSamplesAreRefilledAndNeverScored) {
  world_->lost_samples = 5;
  plan_.rl.max_tries = 6;  // all five may fall on one sample
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  EXPECT_EQ((*ledger)->Counts()->at("infra_failed"), 5);
  EXPECT_EQ((*ledger)->Counts()->at("ok"), 16);
}

// Prompts 0 to 4 teach nothing. The first batch replaces 0 and 1 and must take 2 and 3; the second
// replaces 4.
TEST_F(RunTest, GroupsOfEqualRewardsGiveWayToTheNextPromptsUpToTheirBound) {
  plan_.rl.max_redraws = 2;
  for (int calls = 0; calls < 400; calls += 67) {
    NewWorld();
    world_->dull_below = 5;
    if (calls > 0) world_->DieAfter(calls);
    const absl::Status first = Attempt();
    world_->Revive();
    const absl::Status status = first.ok() ? first : Attempt();
    ASSERT_TRUE(status.ok()) << status << " after " << calls << " calls";
    EXPECT_EQ(world_->trained_prompts(), (std::multiset<int64_t>{2, 3, 5, 6, 7, 8, 9, 10}));
    EXPECT_EQ(world_->changed_batches(), 0);
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    ASSERT_TRUE(ledger.ok());
    EXPECT_EQ((*ledger)->Counts()->at("redrawn"), 3 * plan_.rl.samples);
  }
}

TEST_F(RunTest, AdvantagesAreOfTheKindThatWasAskedForAndOfRewardsAfterThePunishment) {
  // Two responses of a group, "v.0" and "v.1", rewards v / 20 and (v + 0.1) / 20, 3 tokens each.
  plan_.rl.advantage.kind = rl::AdvantageKind::kLeaveOneOut;
  ASSERT_TRUE(Attempt().ok());
  const auto advantages = [&] {
    std::vector<double> found;
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    const auto rows = (*ledger)->Rollouts(0);
    for (const RolloutRow& row : *rows) found.push_back(row.advantage.value_or(NAN));
    return found;
  };
  EXPECT_THAT(advantages(),
              ElementsAre(testing::DoubleNear(-0.005, 1e-12), testing::DoubleNear(0.005, 1e-12)));
  NewWorld();
  plan_.rl.advantage.kind = rl::AdvantageKind::kGroupMean;
  plan_.rl.overlong = {.limit = 3, .stretch = 3};  // all alike, so nothing changes but the reward
  ASSERT_TRUE(Attempt().ok());
  EXPECT_THAT(advantages(),
              ElementsAre(testing::DoubleNear(-0.0025, 1e-12), testing::DoubleNear(0.0025, 1e-12)));
}

TEST_F(RunTest, AResponseThatCannotBeJudgedIsNoZero) {
  world_->unjudged = 2;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
}

TEST_F(RunTest, APromptThatTheTaskRaisesInIsAskedForAgain) {
  world_->raised_resets = 4;  // one less than max_tries
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
}

TEST_F(RunTest, APromptThatTheTaskAlwaysRaisesInGivesWayToTheNext) {
  world_->cursed_prompt = 2;
  const absl::Status status = Attempt();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(world_->trained_prompts(), (std::multiset<int64_t>{0, 1, 3, 4, 5, 6, 7, 8}));
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  EXPECT_EQ((*ledger)->Counts()->at("task_failed"), 1);
  EXPECT_EQ((*ledger)->Groups(GroupState::kDropped)->size(), 1u);
}

// The trainer is asked again only when inference has refused it a few times: it takes the same one
// for not visible yet at first.
TEST_F(RunTest, AVersionThatIsDamagedBeforeItIsReadIsPublishedAnew) {
  world_->damaged = 3;
  const absl::Status status = Attempt();
  ASSERT_TRUE(status.ok()) << status;
  ExpectWhole();
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  const auto versions = (*ledger)->Versions();
  ASSERT_TRUE(versions.ok());
  ASSERT_GE(versions->size(), 5u);
  EXPECT_EQ((*versions)[2].step, (*versions)[3].step);
  EXPECT_NE((*versions)[3].step, (*versions)[4].step);
}

TEST_F(RunTest, ATaskThatNobodyCanJudgeFailsTheRunWithItsReason) {
  world_->unjudged = 1 << 20;
  const auto run = Open();
  ASSERT_TRUE(run.ok());
  const absl::Status status = (*run)->Execute();
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("no judge"));
  EXPECT_EQ((*run)->Now().phase, Phase::kFailed);
}

TEST_F(RunTest, StalenessStaysWithinItsBoundAtTraining) {
  plan_.rl.max_staleness = 2;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_THAT(world_->staleness(), Each(Le(2)));
}

TEST_F(RunTest, RolloutsThatAreTooOldAreDroppedCountedAndMadeAgain) {
  world_->keep_old_weights = true;  // their spans name version 1, of step 0: 4 steps old
  const auto run = Open();
  ASSERT_TRUE(run.ok());
  absl::Status status;
  std::thread loop([&] { status = (*run)->Execute(); });
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  for (int i = 0; i < 2000 && (*ledger)->Counts()->count("stale") == 0; ++i) {
    SystemClock().SleepFor(absl::Milliseconds(5));
  }
  world_->keep_old_weights = false;
  loop.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GE((*ledger)->Counts()->at("stale"), 1);
  ExpectWhole();
  EXPECT_THAT(world_->staleness(), Each(0));
}

TEST_F(RunTest, AStopEndsItAndALaterAttemptFinishes) {
  {
    const auto run = Open();
    ASSERT_TRUE(run.ok());
    (*run)->Stop();
    EXPECT_TRUE((*run)->Execute().ok());
    EXPECT_FALSE((*run)->Finished());
  }
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
}

TEST_F(RunTest, GroupsWithNothingToLearnAreLeftOutButNotForEver) {
  plan_.rl.solved = 0;  // everybody is solved
  plan_.rl.filter = {.all_solved = true, .max_in_a_row = 1};
  ASSERT_TRUE(Attempt().ok());
  EXPECT_EQ(world_->TrainedBatches(), kAllBatches);
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  EXPECT_EQ((*ledger)->Counts()->at("all_solved"), 8);
  EXPECT_EQ((*ledger)->Groups(GroupState::kDropped)->size(), 8u);
  EXPECT_EQ(world_->trained_prompts().size(), 8u);
}

TEST_F(RunTest, TasksByPassRateAreChosenOnceAndKept) {
  plan_.tasks = {"one", "two", "three"};
  plan_.rl.task_weights.by_pass_rate = true;
  world_->DieAfter(90);
  EXPECT_FALSE(Attempt().ok());
  const auto tasks = [this] {
    std::vector<std::string> names;
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    std::map<std::string, int64_t> next;
    for (int64_t step = 5; step <= *(*ledger)->LastStep(); ++step) {
      const auto members = (*ledger)->Members(step);
      for (const RolloutRow& row : *members) {
        names.push_back(row.episode.task);
        if (row.sample != 0) continue;
        EXPECT_EQ(row.episode.index, next[row.episode.task]++);
      }
    }
    return names;
  };
  const std::vector<std::string> before = tasks();
  world_->Revive();
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  const std::vector<std::string> after = tasks();
  ASSERT_EQ(after.size(), 16u);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
}

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

TEST_F(TurnsRunTest, KilledAnywhereItGoesOnWhereItWas) {
  int died = 0;
  for (int calls = 0; calls < 900; calls += 29) {
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

TEST_F(RunTest, AForeignTrainerIsRefused) {
  for (int64_t step = 1; step <= 3; ++step) {
    ASSERT_TRUE(world_->Train({.id = "foreign", .step = step}).ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Attempt()));
}

}  // namespace
}  // namespace palimpsest::orchestrator
