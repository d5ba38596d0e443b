#include "services/orchestrator/core/decisions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace palimpsest::orchestrator {
namespace {

TEST(LearningRateTest, IsLinearBetweenItsEnds) {
  const LearningRate rate{1.0, 0.0};
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 0, 5), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 2, 5), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 4, 5), 0.0);
  EXPECT_DOUBLE_EQ(LearningRateAt({0.3, 0.1}, 0, 0, 1), 0.3);
}

TEST(LearningRateTest, ACosineIsFlatAtBothEnds) {
  const LearningRate rate{1.0, 0.0, RateShape::kCosine};
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 0, 5), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 1, 5), (1 + std::sqrt(0.5)) / 2);
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 2, 5), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateAt(rate, 0, 4, 5), 0.0);
}

TEST(LearningRateTest, WarmUpNeverStartsAtZero) {
  EXPECT_DOUBLE_EQ(LearningRateAt({1, 1}, 4, 0, 10), 0.25);
  EXPECT_DOUBLE_EQ(LearningRateAt({1, 1}, 4, 3, 10), 1.0);
}

TEST(EpisodeTest, TasksTakeTurnsAndNoPromptComesTwice) {
  RunPlan plan;
  plan.tasks = {"a", "b", "c"};
  std::set<std::pair<std::string, int64_t>> seen;
  for (int64_t i = 0; i < 30; ++i) {
    const Episode episode = EpisodeOf(plan, Split::kTrain, 7, i);
    EXPECT_TRUE(seen.emplace(episode.task, episode.index).second);
    EXPECT_EQ(episode, EpisodeOf(plan, Split::kTrain, 7, i));
  }
}

TEST(SeedTest, MeaningsDoNotShareASeed) {
  EXPECT_NE(GroupSeed(1, 5), HeldoutSeed(1, 5));
  EXPECT_NE(GroupSeed(1, 5), GroupSeed(2, 5));
  EXPECT_NE(GroupSeed(1, 5), GroupSeed(1, 6));
}

TEST(SftActionTest, TrainsToItsBound) {
  SftConfig stage;
  stage.max_steps = 2;
  EXPECT_EQ(NextSftAction({.steps = 1}, stage), SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 2}, stage), SftAction::kEnd);
}

TEST(SftActionTest, TheMeanOfTheLastLossesEndsIt) {
  SftConfig stage;
  stage.stop_loss = 0.1;
  stage.loss_window = 2;
  EXPECT_EQ(NextSftAction({.steps = 1, .losses = {0.01}}, stage), SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 3, .losses = {0.01, 0.3, 0.01}}, stage), SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 3, .losses = {9, 0.1, 0.05}}, stage), SftAction::kEnd);
}

TEST(SftActionTest, TheGateIsMeasuredOnceInItsTimeAndEndsTheStageWhenPassed) {
  SftConfig stage;
  stage.max_steps = 100;
  stage.gate = GateConfig{.context = "none", .greedy_reward = 0.9, .every = 10, .prompts = 4};
  EXPECT_EQ(NextSftAction({.steps = 0}, stage), SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 9}, stage), SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 10}, stage), SftAction::kMeasureGate);
  EXPECT_EQ(NextSftAction({.steps = 10, .gate_measured_at = 10, .gate_reward = 0.8}, stage),
            SftAction::kTrain);
  EXPECT_EQ(NextSftAction({.steps = 10, .gate_measured_at = 10, .gate_reward = 0.9}, stage),
            SftAction::kEnd);
}

struct RlCase {
  const char* name;
  RlSnapshot now;
  int32_t max_staleness;
  RlAction action;
};

// Batches of 4 groups, 10 steps, at most 8 groups in flight.
class RlActionTest : public testing::TestWithParam<RlCase> {};

TEST_P(RlActionTest, IsAsTheTableSays) {
  RlConfig rl;
  rl.steps = 10;
  rl.prompts_per_batch = 4;
  rl.max_in_flight = 8;
  rl.eval_every = 5;
  rl.max_staleness = GetParam().max_staleness;
  EXPECT_EQ(NextRlAction(GetParam().now, rl), GetParam().action);
}

RlSnapshot At(int64_t committed, int64_t trained, int64_t served, int64_t ready,
              int64_t in_flight) {
  RlSnapshot now;
  now.committed = committed;
  now.trained = trained;
  now.served = served;
  now.ready = ready;
  now.in_flight = in_flight;
  now.pending = ready + in_flight;
  return now;
}
RlSnapshot Paused(RlSnapshot now) {
  now.paused = true;
  return now;
}
RlSnapshot Evaluated(RlSnapshot now) {
  now.evaluated = true;
  return now;
}
RlSnapshot Reopened(RlSnapshot now) {
  now.reopened = 1;
  now.pending += 1;
  return now;
}

INSTANTIATE_TEST_SUITE_P(
    Table, RlActionTest,
    testing::Values(
        RlCase{"Begin", At(0, 0, 0, 0, 0), 0, RlAction::kAdmit},
        RlCase{"FillsTheBatch", At(0, 0, 0, 0, 3), 0, RlAction::kAdmit},
        RlCase{"OnPolicyWaitsForIt", At(0, 0, 0, 0, 4), 0, RlAction::kWait},
        RlCase{"OnPolicyWaitsForTheRest", At(0, 0, 0, 3, 1), 0, RlAction::kWait},
        RlCase{"Commit", At(0, 0, 0, 4, 0), 0, RlAction::kCommit},
        RlCase{"OnPolicyTrainsWithoutAdmitting", At(1, 0, 0, 0, 0), 0, RlAction::kTrain},
        RlCase{"StaleOneAdmitsTheNextBatchFirst", At(1, 0, 0, 0, 0), 1, RlAction::kAdmit},
        RlCase{"StaleOneThenTrains", At(1, 0, 0, 0, 4), 1, RlAction::kTrain},
        RlCase{"StaleOneStartsTwoBatches", At(0, 0, 0, 0, 4), 1, RlAction::kAdmit},
        RlCase{"NeverMoreThanInFlight", At(0, 0, 0, 0, 8), 3, RlAction::kWait},
        RlCase{"PublishesAfterTraining", At(1, 1, 0, 4, 0), 1, RlAction::kPublish},
        RlCase{"PublishesAfterARollback", At(3, 3, -1, 0, 0), 0, RlAction::kPublish},
        RlCase{"EvaluatesInItsTime", At(5, 5, 5, 4, 0), 1, RlAction::kEvaluate},
        RlCase{"EvaluatesOnce", Evaluated(At(5, 5, 5, 4, 0)), 1, RlAction::kCommit},
        RlCase{"AdmitsNothingPastTheLastBatch", At(9, 9, 9, 0, 4), 3, RlAction::kWait},
        RlCase{"PausedWaits", Paused(At(0, 0, 0, 0, 0)), 0, RlAction::kWait},
        RlCase{"PausedStillTrains", Paused(At(1, 0, 0, 0, 0)), 0, RlAction::kTrain},
        RlCase{"RefillsBeforeAnythingNew", Reopened(At(0, 0, 0, 3, 0)), 0, RlAction::kAdmit},
        RlCase{"Done", At(10, 10, 10, 0, 0), 0, RlAction::kDone}),
    [](const auto& c) { return c.param.name; });

// Plays the loop against the worst order of answers and looks at the bound itself.
TEST(RlActionTest, NoGroupIsEverTrainedOlderThanAllowed) {
  for (const int32_t bound : {0, 1, 2, 3}) {
    RlConfig rl;
    rl.steps = 12;
    rl.prompts_per_batch = 3;
    rl.max_in_flight = 100;
    rl.max_staleness = bound;
    RlSnapshot now;
    std::vector<int64_t> made_at;  // served version of each admitted group, in order
    int64_t used = 0;
    for (int guard = 0; guard < 10000; ++guard) {
      const RlAction action = NextRlAction(now, rl);
      if (action == RlAction::kDone) break;
      if (action == RlAction::kAdmit) {
        made_at.push_back(now.served);
        ++now.in_flight;
        ++now.pending;
      } else if (action == RlAction::kWait) {
        ASSERT_GT(now.in_flight, 0);
        --now.in_flight;
        ++now.ready;
      } else if (action == RlAction::kCommit) {
        for (int i = 0; i < rl.prompts_per_batch; ++i) {
          EXPECT_LE(now.trained - made_at[static_cast<size_t>(used++)], bound);
        }
        ++now.committed;
        now.ready -= rl.prompts_per_batch;
        now.pending -= rl.prompts_per_batch;
      } else if (action == RlAction::kTrain) {
        ++now.trained;
      } else if (action == RlAction::kPublish) {
        now.served = now.trained;
      }
    }
    EXPECT_EQ(now.served, rl.steps);
    EXPECT_EQ(used, rl.steps * rl.prompts_per_batch);
    EXPECT_EQ(static_cast<int64_t>(made_at.size()), used);
  }
}

TEST(ResubmissionTest, SendsWhatTheTrainerLacksAndRefusesAForeignOne) {
  const auto plan = PlanResubmission(3, 7);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->after, 3);
  EXPECT_EQ(plan->through, 7);
  EXPECT_TRUE(absl::IsFailedPrecondition(PlanResubmission(8, 7).status()));
}

TEST(MissingSamplesTest, AreRunsOfConsecutiveNumbers) {
  EXPECT_EQ(MissingSamples({}, 3), (std::vector<SampleRun>{{0, 3}}));
  EXPECT_EQ(MissingSamples({0, 2, 5}, 6), (std::vector<SampleRun>{{1, 1}, {3, 2}}));
  EXPECT_TRUE(MissingSamples({0, 1}, 2).empty());
}

TEST(SessionSeedTest, EachSampleOfAGroupHasItsOwn) {
  EXPECT_NE(SessionSeed(7, 0), SessionSeed(7, 1));
  EXPECT_NE(SessionSeed(7, 0), SessionSeed(8, 0));
  EXPECT_EQ(SessionSeed(7, 3), SessionSeed(7, 3));
}

TEST(ServedByFleetTest, OneThatServesIsEnoughAndAnyOtherFailureIsTold) {
  const absl::Status good, away = absl::UnavailableError("away"), broken = absl::DataLossError("x");
  const absl::Status newer = absl::FailedPreconditionError("serves version 9");
  EXPECT_TRUE(ServedByFleet({away, good}).ok());
  EXPECT_TRUE(ServedByFleet({newer, away}).ok());
  EXPECT_EQ(ServedByFleet({away, away}), away);
  EXPECT_EQ(ServedByFleet({good, broken, away}), broken);
}

TEST(StopsOfTest, APromptAndItsRunNameThemTogether) {
  EXPECT_EQ(StopsOf({"$", "end"}, {"!", "$"}), (std::vector<std::string>{"!", "$", "end"}));
  EXPECT_EQ(StopsOf({"$"}, {}), std::vector<std::string>{"$"});
  EXPECT_TRUE(StopsOf({}, {}).empty());
}

TEST(InPiecesTest, APieceIsWhatFitsOrOneSample) {
  const std::map<int32_t, size_t> bytes = {{2, 5}, {3, 5}, {5, 20}, {6, 1}};
  EXPECT_EQ(InPieces({1, 7}, bytes, 10), (std::vector<SampleRun>{{1, 4}, {5, 1}, {6, 2}}));
  EXPECT_EQ(InPieces({1, 7}, {}, 10), (std::vector<SampleRun>{{1, 7}}));
  EXPECT_EQ(InPieces({2, 2}, bytes, 9), (std::vector<SampleRun>{{2, 1}, {3, 1}}));
}

TEST(VersionsOfTest, AreTheLowestAndTheHighestWhereverTheyStand) {
  const auto span = [](int64_t version) { return rl::Span{.version = PolicyVersion(version)}; };
  EXPECT_EQ(VersionsOf({}), (VersionRange{0, 0}));
  EXPECT_EQ(VersionsOf({span(7), span(4), span(9), span(5)}), (VersionRange{4, 9}));
}

}  // namespace
}  // namespace palimpsest::orchestrator
