#include "services/orchestrator/engine/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

namespace palimpsest::orchestrator {
namespace {

using testing::HasSubstr;

class LedgerTest : public testing::Test {
 protected:
  LedgerTest()
      : path_(testing::TempDir() + "/ledger-" +
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    Remove();
    Reopen();
  }
  ~LedgerTest() override { Remove(); }
  void Remove() {
    for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(path_ + end);
  }
  // What another process would see: nothing is handed over but the file.
  void Reopen() {
    ledger_ = nullptr;
    auto opened = Ledger::Open(path_, "run", 3);
    ASSERT_TRUE(opened.ok()) << opened.status();
    ledger_ = *std::move(opened);
  }
  RolloutRow Row(int64_t group, int32_t sample) {
    RolloutRow row;
    row.id = "g" + std::to_string(group) + "." + std::to_string(sample);
    row.group = group;
    row.sample = sample;
    row.episode = {"registers", Split::kTrain, 0xffffffffffffffffu, group, std::string("\0x", 2)};
    row.reward = 0.25 * sample;
    row.text = "text";
    row.bytes = std::string("\0\1\2", 3);
    row.min_version = 4;
    return row;
  }

  std::string path_;
  std::unique_ptr<Ledger> ledger_;
};

TEST_F(LedgerTest, AnotherRunOrSeedIsRefused) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Ledger::Open(path_, "other", 3).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Ledger::Open(path_, "run", 4).status()));
}

TEST_F(LedgerTest, HoldsTheSettingsThatARunWasBegunWith) {
  EXPECT_TRUE(ledger_->Hold({}).ok());
  EXPECT_TRUE(ledger_->Hold({{"a.budget", "12"}, {"a.window", "6"}}).ok());
  EXPECT_TRUE(ledger_->Hold({{"a.budget", "12"}, {"a.window", "6"}}).ok());
  EXPECT_EQ(ledger_->Hold({{"a.budget", "13"}, {"a.window", "6"}}).message(),
            "a.budget=13, but this run was begun with 12: another run needs another run.folder");
  EXPECT_THAT(ledger_->Hold({{"a.budget", "12"}}).message(), HasSubstr("a.window=(nothing)"));
}

TEST_F(LedgerTest, ASettingThatIsNewerThanTheRunIsLetPass) {
  EXPECT_TRUE(ledger_->Hold({{"a.budget", "12"}}).ok());
  EXPECT_TRUE(ledger_->Hold({{"a.budget", "12"}, {"a.new", "1"}}).ok());
  EXPECT_TRUE(ledger_->Hold({{"a.budget", "12"}, {"a.new", "2"}}).ok());
}

TEST_F(LedgerTest, WhoOnlyLooksSeesTheRunAsAWhole) {
  const absl::Time t = absl::FromUnixSeconds(1000);
  ASSERT_TRUE(ledger_->BeginAttempt(t).ok());
  ASSERT_TRUE(ledger_->Beat(t + absl::Seconds(5)).ok());
  ASSERT_TRUE(ledger_->BeginStage("b", 0).ok());
  ASSERT_TRUE(ledger_->BeginStage("a", 2).ok());
  for (const double reward : {0.0, 1.0, 1.0}) {
    ASSERT_TRUE(
        ledger_->SaveEvaluation({"last", false, static_cast<int64_t>(2 * reward), reward}).ok());
  }
  const auto reader = Ledger::Read(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const RunRow about = (*reader)->About().value();
  EXPECT_EQ(about.run, "run");
  EXPECT_EQ(about.seed, 3u);
  EXPECT_EQ(about.attempts, 1);
  EXPECT_EQ(about.seen - about.began, absl::Seconds(5));
  EXPECT_EQ((*reader)->Stages()->front().name, "b");  // as they began, not by name
  ASSERT_EQ((*reader)->EvaluationMeans()->size(), 1u);
  EXPECT_EQ((*reader)->EvaluationMeans()->front().prompts, 2);
  EXPECT_EQ((*reader)->EvaluationMeans()->front().reward, 0.5);
  EXPECT_TRUE(absl::IsNotFound(Ledger::Read(path_ + ".none").status()));
}

TEST_F(LedgerTest, WallTimeAddsUpOverAttempts) {
  const absl::Time t = absl::FromUnixSeconds(1000);
  EXPECT_EQ(*ledger_->BeginAttempt(t), 0);
  ASSERT_TRUE(ledger_->Beat(t + absl::Seconds(5)).ok());
  Reopen();
  EXPECT_EQ(*ledger_->BeginAttempt(t + absl::Hours(1)), 1);
  ASSERT_TRUE(ledger_->Beat(t + absl::Hours(1) + absl::Seconds(2)).ok());
  EXPECT_DOUBLE_EQ(*ledger_->WallSeconds(), 7);
}

TEST_F(LedgerTest, AStageKeepsTheStepOfItsFirstBeginning) {
  EXPECT_FALSE(ledger_->FindStage("a")->has_value());
  EXPECT_EQ(*ledger_->BeginStage("a", 5), 5);
  Reopen();
  EXPECT_EQ(*ledger_->BeginStage("a", 9), 5);
  ASSERT_TRUE(ledger_->EndStage("a", 12).ok());
  EXPECT_EQ((*ledger_->FindStage("a"))->last_step, 12);
}

TEST_F(LedgerTest, GroupNumbersRiseByOneOverReopening) {
  EXPECT_EQ(ledger_->OpenGroup("registers")->id, 0);
  EXPECT_EQ(ledger_->OpenGroup("registers")->id, 1);
  Reopen();
  EXPECT_EQ(ledger_->OpenGroup("registers")->id, 2);
  EXPECT_EQ(ledger_->Groups(GroupState::kOpen)->size(), 3u);
}

TEST_F(LedgerTest, EachTaskHasItsOwnPromptsInOrder) {
  for (const char* task : {"a", "b", "a"}) ASSERT_TRUE(ledger_->OpenGroup(task).ok());
  Reopen();
  EXPECT_EQ(*ledger_->NextGroup(), 3);
  EXPECT_EQ(ledger_->OpenGroup("b")->index, 1);
  const auto groups = ledger_->Groups(GroupState::kOpen);
  ASSERT_EQ(groups->size(), 4u);
  EXPECT_EQ((*groups)[2].task, "a");
  EXPECT_EQ((*groups)[2].index, 1);
}

TEST_F(LedgerTest, PassRatesAreThoseOfTheLatestGroups) {
  EXPECT_TRUE(ledger_->Solved(10, 0.25)->empty());
  for (int64_t group : {0, 1, 2}) {
    ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
    ASSERT_TRUE(ledger_->Accept(group, {Row(group, 0), Row(group, 1)}, true, absl::Now()).ok());
  }
  const std::string task = Row(0, 0).episode.task;
  EXPECT_EQ(ledger_->Solved(10, 0.25)->at(task), (TaskRecord{.rollouts = 6, .solved = 3}));
  EXPECT_EQ(ledger_->Solved(1, 0.25)->at(task), (TaskRecord{.rollouts = 2, .solved = 1}));
  EXPECT_EQ(ledger_->Solved(1, 0.26)->at(task), (TaskRecord{.rollouts = 2, .solved = 0}));
}

TEST_F(LedgerTest, AcceptedRolloutsComeBackByteForByte) {
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0), Row(0, 1)}, true, absl::FromUnixMillis(77)).ok());
  Reopen();
  const auto rows = ledger_->Rollouts(0);
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[1].bytes, Row(0, 1).bytes);
  EXPECT_EQ((*rows)[1].episode, Row(0, 1).episode);
  EXPECT_EQ((*rows)[1].reward, 0.25);
  EXPECT_EQ((*rows)[1].accepted_unix_ms, 77);
  EXPECT_FALSE((*rows)[1].step.has_value());
  EXPECT_EQ(ledger_->Groups(GroupState::kReady)->front().samples, (std::vector<int32_t>{0, 1}));
}

TEST_F(LedgerTest, AcceptingTheSameSampleTwiceChangesNothing) {
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0)}, false, absl::Now()).ok());
  RolloutRow twin = Row(0, 0);
  twin.id = "twin";
  EXPECT_FALSE(ledger_->Accept(0, {Row(0, 1), twin}, true, absl::Now()).ok());
  EXPECT_EQ(ledger_->Groups(GroupState::kOpen)->front().samples, (std::vector<int32_t>{0}));
  EXPECT_EQ(ledger_->Counts()->at("ok"), 1);
}

TEST_F(LedgerTest, ABatchTakesItsGroupsAndCannotStandTwice) {
  for (int64_t group : {0, 1}) {
    ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
    ASSERT_TRUE(ledger_->Accept(group, {Row(group, 0), Row(group, 1)}, true, absl::Now()).ok());
  }
  const BatchRow batch{.step = 1, .id = "rl.0", .stage = "rl", .kind = BatchKind::kRl};
  ASSERT_TRUE(ledger_->CommitRlBatch(batch, {0}, {{"g0.0", -1}, {"g0.1", 1}}).ok());
  EXPECT_FALSE(ledger_->CommitRlBatch(batch, {1}, {}).ok());
  Reopen();
  EXPECT_EQ(*ledger_->LastStep(), 1);
  EXPECT_FALSE(ledger_->Batch(1)->trained);
  const auto members = ledger_->Members(1);
  ASSERT_EQ(members->size(), 2u);
  EXPECT_EQ((*members)[0].advantage, -1);
  EXPECT_EQ((*members)[0].batch_id, "rl.0");
  EXPECT_EQ(ledger_->Groups(GroupState::kReady)->size(), 1u);
  ASSERT_TRUE(ledger_->MarkTrained({.step = 1, .stage = "rl", .reward = 0.5}).ok());
  EXPECT_TRUE(ledger_->Batch(1)->trained);
  EXPECT_EQ(ledger_->Steps()->front().reward, 0.5);
}

TEST_F(LedgerTest, WhatWasReplayedIsKeptWithItsStepOrNeitherIs) {
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0), Row(0, 1)}, true, absl::Now()).ok());
  ASSERT_TRUE(ledger_->CommitRlBatch({.step = 1, .id = "b", .kind = BatchKind::kRl}, {0}, {}).ok());
  const rl::Replayed one = {"g0.0", {-0.5f, -1e-7f, -HUGE_VALF}};
  EXPECT_FALSE(ledger_->MarkTrained({.step = 1}, {one, one}).ok()) << "the second has no place";
  EXPECT_FALSE(ledger_->Batch(1)->trained);
  EXPECT_TRUE(ledger_->Steps()->empty());
  EXPECT_TRUE(ledger_->FindRollout("g0.0")->replayed.empty());
  ASSERT_TRUE(ledger_->MarkTrained({.step = 1}, {one}).ok());
  Reopen();
  EXPECT_TRUE(ledger_->Batch(1)->trained);
  EXPECT_EQ(ledger_->FindRollout("g0.0")->replayed, one.logprobs);
  EXPECT_TRUE(ledger_->FindRollout("g0.1")->replayed.empty());
}

TEST_F(LedgerTest, OneOfBeforeReplaysWereKeptIsReadAndGoesOn) {
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0)}, true, absl::Now()).ok());
  ledger_ = nullptr;
  ASSERT_TRUE(Database::Open(path_).value()->Execute("DROP TABLE replayed").ok());
  const auto reader = Ledger::Read(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE((*reader)->FindRollout("g0.0")->replayed.empty());
  Reopen();
  ASSERT_TRUE(ledger_->MarkTrained({.step = 1}, {{"g0.0", {-1}}}).ok());
  EXPECT_EQ(Ledger::Read(path_).value()->FindRollout("g0.0")->replayed, std::vector<float>{-1});
}

TEST_F(LedgerTest, PartsOfARewardGoWithTheirRolloutOrEvaluation) {
  RolloutRow row = Row(0, 0);
  row.parts = {{"half", 1}, {"strict", 0.25}};
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {row, Row(0, 1)}, true, absl::Now()).ok());
  EvaluationRow measured{"last", true, 4, 0.5};
  measured.parts = {{"half", 0.75}};
  ASSERT_TRUE(ledger_->SaveEvaluation(measured).ok());
  ASSERT_TRUE(ledger_->SaveEvaluation({"last", true, 5, 0.5}).ok());
  Reopen();
  EXPECT_EQ(ledger_->FindRollout("g0.0")->parts, row.parts);
  EXPECT_TRUE(ledger_->FindRollout("g0.1")->parts.empty());
  const auto rows = ledger_->Evaluations("last", true);
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].parts, measured.parts);
  EXPECT_TRUE((*rows)[1].parts.empty());
  ASSERT_TRUE(ledger_->DropRollouts({"g0.0"}, "stale").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0)}, true, absl::Now()).ok());
  EXPECT_TRUE(ledger_->FindRollout("g0.0")->parts.empty()) << "they went with the rollout";
}

TEST_F(LedgerTest, APromptThatCouldNotBeMeasuredIsNoEvaluation) {
  ASSERT_TRUE(ledger_->SaveEvaluation({"last", false, 0, 1}).ok());
  ASSERT_TRUE(ledger_->SaveUnjudged({"last", false, 1, "it raised"}).ok());
  ASSERT_TRUE(ledger_->SaveUnjudged({"last", true, 1, "it raised"}).ok());
  Reopen();
  EXPECT_EQ(ledger_->Evaluations("last", false)->size(), 1u);
  const auto unjudged = ledger_->Unjudged("last", false);
  ASSERT_EQ(unjudged->size(), 1u);
  EXPECT_EQ(unjudged->front().index, 1);
  EXPECT_EQ(unjudged->front().reason, "it raised");
  const auto means = ledger_->EvaluationMeans();
  ASSERT_EQ(means->size(), 1u) << "greedily none was measured";
  EXPECT_EQ(means->front().reward, 1);
  EXPECT_EQ(means->front().prompts, 1);
  EXPECT_EQ(means->front().unjudged, 1);
}

TEST_F(LedgerTest, WhatWasCutIsKeptUntilItsSampleIsAcceptedOrItsGroupGivenUp) {
  const auto samples = [&](int64_t group) {
    std::vector<int32_t> numbers;
    const auto rows = ledger_->Cut(group);
    EXPECT_TRUE(rows.ok());
    if (!rows.ok()) return numbers;
    for (const CutRow& row : *rows) numbers.push_back(row.sample);
    return numbers;
  };
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(ledger_->OpenGroup("t").ok());
  const std::string bytes("a\0b", 3);
  ASSERT_TRUE(ledger_->KeepCut(0, {{0, "whole", bytes}, {2, "", "c"}}).ok());
  ASSERT_TRUE(ledger_->KeepCut(1, {{1, "", "d"}}).ok());
  const auto cut = ledger_->Cut(0);
  ASSERT_TRUE(cut.ok());
  ASSERT_EQ(cut->size(), 2u);
  EXPECT_EQ(cut->front().text, "whole");
  EXPECT_EQ(cut->front().bytes, bytes);
  RolloutRow accepted{.id = "r", .sample = 0};
  ASSERT_TRUE(ledger_->Accept(0, {accepted}, false, absl::UnixEpoch()).ok());
  EXPECT_THAT(samples(0), testing::ElementsAre(2));
  ASSERT_TRUE(ledger_->KeepCut(0, {{3, "", "e"}}).ok());
  EXPECT_THAT(samples(0), testing::ElementsAre(3));
  ASSERT_TRUE(ledger_->DropGroup(0, "no").ok());
  EXPECT_THAT(samples(0), testing::IsEmpty());
  EXPECT_THAT(samples(1), testing::ElementsAre(1));
}

TEST_F(LedgerTest, OfAnEpisodeThatWasCutItsValueIsKeptToo) {
  ASSERT_TRUE(ledger_->OpenGroup("t").ok());
  const Episode episode{"t", Split::kTrain, ~uint64_t{0}, 3, std::string("x\0y", 3)};
  ASSERT_TRUE(
      ledger_->KeepCut(0, {{0, "said", "a", episode, 2}, {1, "", "b"}, {2, "hm", "c", episode, 1}})
          .ok());
  const auto cut = ledger_->Cut(0);
  ASSERT_TRUE(cut.ok());
  ASSERT_EQ(cut->size(), 3u);
  EXPECT_EQ(cut->at(0).episode, episode);
  EXPECT_EQ(cut->at(0).responses, 2);
  EXPECT_EQ(cut->at(1).responses, 0);
  // Each goes with its log, so that a later one of one turn is not taken for an episode.
  ASSERT_TRUE(ledger_->Accept(0, {{.id = "r", .sample = 0}}, false, absl::UnixEpoch()).ok());
  ASSERT_TRUE(ledger_->KeepCut(0, {{0, "", "a"}, {2, "", "c"}}).ok());
  const auto later = ledger_->Cut(0);
  ASSERT_EQ(later->size(), 2u);
  for (const CutRow& row : *later) EXPECT_EQ(row.responses, 0) << row.sample;
}

TEST_F(LedgerTest, DroppedRolloutsOpenTheirGroupButNeverThoseOfABatch) {
  for (int64_t group : {0, 1}) {
    ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
    ASSERT_TRUE(ledger_->Accept(group, {Row(group, 0), Row(group, 1)}, true, absl::Now()).ok());
  }
  ASSERT_TRUE(ledger_->CommitRlBatch({.step = 1, .id = "b", .kind = BatchKind::kRl}, {0}, {}).ok());
  ASSERT_TRUE(ledger_->DropRollouts({"g0.0", "g1.1"}, "stale").ok());
  EXPECT_EQ(ledger_->Members(1)->size(), 2u);
  const auto open = ledger_->Groups(GroupState::kOpen);
  ASSERT_EQ(open->size(), 1u);
  EXPECT_EQ(open->front().id, 1);
  EXPECT_EQ(open->front().samples, (std::vector<int32_t>{0}));
}

TEST_F(LedgerTest, AbandonedVersionsAreHiddenUntilPublishedAgain) {
  for (int64_t step : {0, 1, 2}) {
    ASSERT_TRUE(ledger_->RecordVersion({.version = PolicyVersion(step + 1), .step = step}).ok());
  }
  ASSERT_TRUE(ledger_->AbandonVersions(1).ok());
  EXPECT_EQ(ledger_->Versions()->size(), 2u);
  EXPECT_EQ(*ledger_->VersionCount(), 3);
  ASSERT_TRUE(ledger_->RecordVersion({.version = PolicyVersion(3), .step = 2}).ok());
  EXPECT_EQ(ledger_->Versions()->size(), 3u);
}

TEST_F(LedgerTest, ListsNewestFirstInPages) {
  ASSERT_TRUE(ledger_->OpenGroup("registers").ok());
  ASSERT_TRUE(ledger_->Accept(0, {Row(0, 0), Row(0, 1), Row(0, 2)}, true, absl::Now()).ok());
  const auto first = ledger_->List({.limit = 2});
  ASSERT_EQ(first->rows.size(), 2u);
  EXPECT_EQ(first->rows[0].id, "g0.2");
  const auto second = ledger_->List({.before = first->next, .limit = 2});
  ASSERT_EQ(second->rows.size(), 1u);
  EXPECT_EQ(second->next, 0);
  EXPECT_TRUE(ledger_->List({.group = 9})->rows.empty());
  EXPECT_TRUE(ledger_->List({.outcome = rl::Outcome::kCancelled})->rows.empty());
  EXPECT_TRUE(absl::IsNotFound(ledger_->FindRollout("nobody").status()));
}

}  // namespace
}  // namespace palimpsest::orchestrator
