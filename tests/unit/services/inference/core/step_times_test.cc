#include "services/inference/core/step_times.h"

#include <gtest/gtest.h>

namespace palimpsest::inference {
namespace {

TEST(StepTimesTest, NothingIsBoundedBeforeItIsMeasured) {
  StepTimes times;
  EXPECT_EQ(times.PromptRows(512), 512);
  EXPECT_EQ(times.ForEvents(1, 8), 0);
  EXPECT_EQ(times.HeadsIn(1), 1);
  times.AddPass(0.5, 0, 100);
  EXPECT_EQ(times.PromptRows(512), 512) << "nobody has decoded yet";
}

TEST(StepTimesTest, EventsAndPromptsGetHalfOfAMedianStepEach) {
  StepTimes times;
  for (const double seconds : {0.09, 0.10, 0.30}) times.AddPass(seconds, 8, 0);
  EXPECT_DOUBLE_EQ(times.ForEvents(1, 8), 0.05);
  times.AddPass(0.2, 0, 200);  // 1 ms a row
  EXPECT_EQ(times.PromptRows(512), 50);
  EXPECT_EQ(times.PromptRows(20), 20);
  times.AddEvent(0.02);
  EXPECT_DOUBLE_EQ(times.HeadsIn(times.ForEvents(1, 8)), 2.5);
}

TEST(StepTimesTest, ThoseWhoWaitForEventsCountAsMuchAsThoseWhoDecode) {
  StepTimes times;
  times.AddPass(0.1, 8, 0);
  EXPECT_DOUBLE_EQ(times.ForEvents(8, 8), 0.05);
  EXPECT_DOUBLE_EQ(times.ForEvents(24, 8), 0.15);
  EXPECT_DOUBLE_EQ(times.Slice(24, 8), 0.3) << "a slice may take what two steps' shares pay for";
}

TEST(EventCreditTest, WhatASliceTookBeyondItsShareLaterStepsPayForAndNothingIsSaved) {
  EventCredit credit;
  credit.BeginStep(1);
  EXPECT_TRUE(credit.Left());
  credit.Spend(3);
  EXPECT_FALSE(credit.Left());
  credit.BeginStep(1);
  EXPECT_FALSE(credit.Left()) << "one is still owed";
  credit.BeginStep(1);
  EXPECT_TRUE(credit.Left());
  credit.BeginStep(1);
  credit.Spend(1.5);
  EXPECT_FALSE(credit.Left()) << "the unused share of the step before is lost";
}

TEST(EventCreditTest, WithoutAShareAnEventGoesOnInEachStep) {
  EventCredit credit;
  credit.BeginStep(1);
  credit.Spend(100);
  credit.BeginStep(0);
  EXPECT_TRUE(credit.Left()) << "prompts alone have been processed: no step of others is measured";
}

TEST(StepTimesTest, WhatARowCostsIsWhatAMixedStepTakesLonger) {
  StepTimes times;
  times.AddPass(0.1, 8, 0);
  times.AddPass(0.15, 8, 100);  // 0.5 ms a row
  EXPECT_EQ(times.PromptRows(512), 100);
  times.AddPass(0.15, 8, 100);
  EXPECT_EQ(times.PromptRows(512), 100) << "a mixed step does not move the median of the others";
}

TEST(StepTimesTest, APromptAlwaysGoesOn) {
  StepTimes times;
  times.AddPass(0.01, 1, 0);
  times.AddPass(1, 0, 10);
  EXPECT_EQ(times.PromptRows(512), StepTimes::kLeastRows);
  EXPECT_EQ(times.PromptRows(3), 3);
  times.AddEvent(10);
  EXPECT_EQ(times.HeadsIn(times.ForEvents(1, 8)), 1);
}

TEST(StepTimesTest, RowsThatCostNothingAreAllLetIn) {
  StepTimes times;
  times.AddPass(0.01, 1, 0);
  times.AddPass(0.01, 1, 10);
  EXPECT_EQ(times.PromptRows(512), 512);
}

}  // namespace
}  // namespace palimpsest::inference
