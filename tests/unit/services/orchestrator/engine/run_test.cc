#include "services/orchestrator/engine/run.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_format.h"
#include "common/base/fails_again.h"
#include "tests/unit/services/orchestrator/engine/run_fixture.h"

namespace palimpsest::orchestrator {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Le;

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

TEST_F(RunTest, EachTrainedRolloutKeepsWhatTheTrainerReplayedUnlessTheAnswerWasLost) {
  world_->unheard = 6;  // the second step of RL
  const auto run = Open();
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->Execute().ok());
  ExpectWhole();
  EXPECT_EQ(world_->unheard.load(), 0);
  const auto page = (*run)->ListRollouts({.limit = 100});
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->rows.size(), 16u);
  for (const RolloutRow& row : page->rows) {
    const auto whole = (*run)->GetRollout(row.id);
    ASSERT_TRUE(whole.ok()) << whole.status();
    const auto responses = static_cast<size_t>(row.total_tokens - row.prompt_tokens);
    ASSERT_EQ(whole->replayed.size(), row.step == 6 ? 0 : responses) << row.id;
    for (size_t i = 0; i < whole->replayed.size(); ++i) {
      EXPECT_FLOAT_EQ(whole->replayed[i], -0.5f + 0.001f * static_cast<float>(i + 1));
    }
  }
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

TEST_F(RunTest, KilledAnywhereItGoesOnWhereItWas) { DieAnywhere(7, 400); }

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

// Rollouts of it would be too old for ever, and the trainer, which is where it should be, has
// nothing to say.
TEST_F(RunTest, OlderWeightsThatAreServedUnderAHigherNumberAreReplaced) {
  std::atomic<bool> done = false;
  world_->before_generate = [&] {
    if (world_->TrainedBatches().size() == 6 && !done.exchange(true)) world_->ServeOlderWeights();
  };
  ASSERT_TRUE(Attempt().ok());
  EXPECT_TRUE(done);
  ExpectWhole();
  EXPECT_THAT(world_->staleness(), Each(0));
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

// Sampled and greedily, before RL, after it and under the other context: prompt 1 counts nowhere.
TEST_F(RunTest, AHeldoutPromptThatNobodyCanMeasureIsMissingAndNoFailureOfTheRun) {
  world_->cursed_heldout = 1;
  const absl::Status status = Attempt();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(world_->TrainedBatches(), kAllBatches);
  const auto report = nlohmann::json::parse(ReadFile("report.json"), nullptr, false);
  ASSERT_FALSE(report.is_discarded());
  EXPECT_EQ(report["heldout_n"], 2);
  EXPECT_EQ(report["heldout_last"]["unjudged"], 2);
  EXPECT_THAT(metrics_->Text(), testing::HasSubstr("heldout_unjudged"));
  const int resets = world_->heldout_resets();
  ASSERT_TRUE(Attempt().ok());
  EXPECT_EQ(world_->heldout_resets(), resets) << "it is not measured again by later weights";
}

TEST_F(RunTest, AnEvaluationThatMeasuresNothingFailsTheRunWithItsReason) {
  plan_.heldout.prompts = 1;
  world_->cursed_heldout = 0;
  const absl::Status status = Attempt();
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("none of 1 prompts"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("the prompt raised"));
}

TEST_F(RunTest, TheReportTellsEachTaskAndThePartsOfItsRewards) {
  plan_.tasks = {"one", "two"};
  ASSERT_TRUE(Attempt().ok());
  const auto report = nlohmann::json::parse(ReadFile("report.json"), nullptr, false);
  const auto& by_task = report["heldout_by_task"];
  EXPECT_EQ(by_task["one"]["last"]["prompts"], 2);  // of 0, 1, 2 they take turns
  EXPECT_EQ(by_task["two"]["last"]["prompts"], 1);
  const double one = by_task["one"]["last"]["reward"], two = by_task["two"]["last"]["reward"];
  EXPECT_NEAR((2 * one + two) / 3, report["reward_last"].get<double>(), 1e-12);
  EXPECT_NEAR(report["heldout_last"]["parts"]["v"].get<double>(),
              20 * report["reward_last"].get<double>(), 1e-9);
  EXPECT_EQ(report["command"], "the command");
}

// What the model was surprised by, in nats per sampled token: FakeWorld draws each at -0.5.
TEST_F(RunTest, SurprisalAndRepetitionOfTheLastBatchAreTold) {
  ASSERT_TRUE(Attempt().ok());
  EXPECT_THAT(metrics_->Text(), testing::HasSubstr("_surprisal 0.5\n"));
  EXPECT_THAT(metrics_->Text(), testing::HasSubstr("_repetition 0\n"));
}

TEST_F(RunTest, APromptThatTheTaskRaisesInIsAskedForAgain) {
  world_->raised_resets = 4;  // one less than max_tries
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
}

TEST_F(RunTest, APromptThatAWorkerIsLostOverIsAskedForAgainAndNotWaitedFor) {
  world_->hung_resets = 4;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_THAT(metrics_->Text(),
              testing::HasSubstr("peer_wait_seconds_total{call=\"env.reset\"} 0\n"));
}

TEST_F(RunTest, ATaskThatTheEnvironmentDoesNotHaveIsNamedAndWouldBeAgain) {
  plan_.tasks = {"one", "tow"};
  const absl::Status status = Attempt();
  EXPECT_EQ(status.message(),
            "orchestrator.tasks[1]=tow: the environment has no such task, but one, registers, "
            "talk, three, two");
  EXPECT_TRUE(FailsAgain(status));
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

TEST_F(RunTest, AReplicaThatGoesAwayHandsItsSamplesOnToBeContinued) {
  std::atomic<bool> away = false;
  world_->before_generate = [&] {
    if (world_->TrainedBatches().size() == 5 && !away.exchange(true)) world_->cut_samples = 3;
  };
  plan_.rl.max_tries = 4;  // the fake ones come no further when they are cut again
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_EQ(world_->continued(), 3);
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  ASSERT_TRUE(ledger.ok());
  const auto counts = (*ledger)->Counts();
  ASSERT_TRUE(counts.ok());
  EXPECT_FALSE(counts->contains("cancelled")) << "none is lost";
  EXPECT_GE(counts->at("continued"), 1);  // one may have been cut again
}

TEST_F(RunTest, ALogThatInferenceRefusesIsOfNoUseAndItsSampleBeginsAnew) {
  world_->cut_samples = 3;
  world_->refuse_begun = true;
  plan_.rl.max_tries = 4;
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_EQ(world_->continued(), 0);
}

// The first sample is cut in its middle; the second is whole, but the stop leaves it unjudged.
TEST_F(RunTest, AStopKeepsWhatThereIsAndALaterAttemptGoesOnFromIt) {
  {
    const auto run = Open();
    ASSERT_TRUE(run.ok());
    std::atomic<bool> stopped = false;
    world_->before_generate = [&] {
      if (world_->TrainedBatches().size() != 5 || stopped.exchange(true)) return;
      world_->cut_samples = 1;
      (*run)->Stop();
    };
    EXPECT_TRUE((*run)->Execute().ok());
    EXPECT_FALSE((*run)->Finished());
    world_->before_generate = nullptr;
  }
  const auto kept = [&] {
    std::vector<CutRow> all;
    const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
    for (int64_t group = 0; group < 8; ++group) {
      const auto rows = (*ledger)->Cut(group);
      EXPECT_TRUE(rows.ok());
      if (rows.ok()) all.insert(all.end(), rows->begin(), rows->end());
    }
    return all;
  };
  const std::vector<CutRow> cut = kept();
  const auto ended =
      std::count_if(cut.begin(), cut.end(), [](const CutRow& r) { return !r.text.empty(); });
  EXPECT_EQ(std::ssize(cut) - ended, 1);
  EXPECT_GE(ended, 1);
  ASSERT_TRUE(Attempt().ok());
  ExpectWhole();
  EXPECT_EQ(world_->continued(), 1);
  EXPECT_TRUE(kept().empty());
  const auto ledger = Ledger::Open(folder_ + "/ledger.sqlite", "test", 11);
  EXPECT_EQ((*ledger)->Counts()->at("continued"), 1);
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

TEST_F(RunTest, AForeignTrainerIsRefused) {
  for (int64_t step = 1; step <= 3; ++step) {
    ASSERT_TRUE(world_->Train({.id = "foreign", .step = step}).ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Attempt()));
}

}  // namespace
}  // namespace palimpsest::orchestrator
