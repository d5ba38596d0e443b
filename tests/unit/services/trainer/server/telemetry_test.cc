#include "services/trainer/server/telemetry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/clock.h"

// What of a step stands in which metric. Every number of the step is another one.
namespace palimpsest::trainer {
namespace {

using ::testing::HasSubstr;

StepResult Result() {
  return {.step = 1,
          .loss = 0.5,
          .grad_norm = 2.25,
          .learning_rate = 0.0625,
          .tokens = 120,
          .loss_tokens = 70,
          .entropy = 1.75,
          .ratio = RatioStats{.mean = 1.125,
                              .max = 3.5,
                              .clip_share = 0.3125,
                              .truncated_share = 0.1875,
                              .effective_sample_size = 0.875,
                              .masked_share = 0.4375},
          .phases = {{"forward", 2}, {"backward", 3.5}, {"optimizer", 2.5}},
          .peak_bytes = 123456};
}

class TelemetryTest : public ::testing::Test {
 protected:
  // A line of the page, with its end: 12 is not 120.
  void ExpectLine(const std::string& line) {
    EXPECT_THAT(metrics_.Text(), HasSubstr("\npalimpsest_" + line + "\n"));
  }
  Metrics metrics_{"trainer", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
};

TEST_F(TelemetryTest, AStepStandsInTheGaugesAsItWas) {
  telemetry_.Trained(Result());
  ExpectLine("trainer_loss 0.5");
  ExpectLine("trainer_grad_norm 2.25");
  ExpectLine("trainer_learning_rate 0.0625");
  ExpectLine("trainer_entropy 1.75");
  ExpectLine("trainer_peak_bytes 123456");
  ExpectLine("trainer_ratio_mean 1.125");
  ExpectLine("trainer_ratio_max 3.5");
  ExpectLine("trainer_clip_share 0.3125");
  ExpectLine("trainer_truncated_share 0.1875");
  ExpectLine("trainer_masked_share 0.4375");
  ExpectLine("trainer_effective_sample_share 0.875");
}

TEST_F(TelemetryTest, TokensPerSecondAreTheRowsOfTheLastStepByTheSecondsOfItsPhases) {
  telemetry_.Trained(Result());
  ExpectLine("trainer_tokens_per_second 15");
  StepResult next = Result();
  next.tokens = 30;
  next.phases = {{"forward", 1}, {"optimizer", 2}};
  telemetry_.Trained(next);
  ExpectLine("trainer_tokens_per_second 10");
  ExpectLine("trainer_tokens_total 150");
  ExpectLine("trainer_loss_tokens_total 140");
}

TEST_F(TelemetryTest, EachPhaseHasItsSecondsAndItsSteps) {
  telemetry_.Trained(Result());
  telemetry_.Trained(Result());
  for (const auto& [phase, seconds] : {std::pair<std::string, std::string>{"forward", "4"},
                                       {"backward", "7"},
                                       {"optimizer", "5"}}) {
    ExpectLine("trainer_step_seconds_sum{phase=\"" + phase + "\"} " + seconds);
    ExpectLine("trainer_step_seconds_count{phase=\"" + phase + "\"} 2");
  }
}

TEST_F(TelemetryTest, AStepThatWasSkippedIsCountedAndOneWithoutRolloutsLeavesTheRatios) {
  telemetry_.Trained(Result());
  StepResult skipped = Result();
  skipped.skipped = true;
  skipped.ratio.reset();
  telemetry_.Trained(skipped);
  ExpectLine("trainer_skipped_steps_total 1");
  ExpectLine("trainer_ratio_mean 1.125");
}

}  // namespace
}  // namespace palimpsest::trainer
