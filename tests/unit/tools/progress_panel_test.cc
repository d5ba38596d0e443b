#include "tools/launch/progress_panel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"

namespace palimpsest::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Progress Progress() {
  v1::Progress p;
  p.set_run("quickstart");
  p.set_phase(v1::RUN_PHASE_RL);
  p.set_step(10);
  p.set_total_steps(40);
  p.set_reward(0.625);
  p.set_tokens_per_second(1234.4);
  p.set_events_per_rollout(7.5);
  p.set_staleness_max(1);
  p.set_mismatch_kl(2.5e-9);
  p.set_policy_version(11);
  p.set_left_seconds(3723);
  v1::HeldoutResult& heldout = *p.add_heldout();
  heldout.set_reward(0.375);
  heldout.set_greedy_reward(0.9);
  return p;
}

TEST(ProgressPanelTest, SaysAllThatMattersInOneLine) {
  const std::string line = ProgressLine(Progress());
  for (const char* part : {"rl 10/40", "reward 0.625", "1234 tokens/s", "7.5 events", "staleness 1",
                           "mismatch 2.5e-09", "version 11", "left 1:02:03"}) {
    EXPECT_THAT(line, HasSubstr(part));
  }
}

TEST(ProgressPanelTest, WhatIsNotKnownIsADashNotAZero) {
  v1::Progress p = Progress();
  p.clear_reward();
  p.clear_mismatch_kl();
  p.clear_left_seconds();
  EXPECT_THAT(ProgressLine(p), HasSubstr("reward -"));
  EXPECT_THAT(ProgressLine(p), HasSubstr("mismatch -"));
  EXPECT_THAT(ProgressLine(p), HasSubstr("left -"));
  p.set_policy_version(-1);
  EXPECT_THAT(ProgressLine(p), HasSubstr("version -  left"));
  p.set_total_steps(0);  // evaluation counts no steps
  EXPECT_THAT(ProgressLine(p), HasSubstr("rl  reward"));
}

TEST(ProgressPanelTest, ThePanelFitsTheTerminalAndShowsHeldOutReward) {
  const std::string wide = absl::StrJoin(ProgressPanel(Progress(), 200), "\n");
  EXPECT_THAT(wide, HasSubstr("step 0: 0.375 (greedy 0.900)"));
  EXPECT_THAT(wide, Not(HasSubstr("failure")));
  for (const std::string& line : ProgressPanel(Progress(), 20)) EXPECT_LE(line.size(), 20u);
  for (const int columns : {0, 1, 2}) EXPECT_FALSE(ProgressPanel(Progress(), columns).empty());
}

TEST(ProgressPanelTest, ARunWithoutStepsHasAnEmptyBar) {
  v1::Progress p;
  EXPECT_THAT(absl::StrJoin(ProgressPanel(p, 80), "\n"), Not(HasSubstr("#")));
}

}  // namespace
}  // namespace palimpsest::tools
