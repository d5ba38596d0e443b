#include "services/orchestrator/core/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace palimpsest::orchestrator {
namespace {

using testing::HasSubstr;

TEST(RunPlanTest, TheDefaultsAreLegal) { EXPECT_TRUE(Validate(RunPlan{}).ok()); }

TEST(RunPlanTest, ARefusalNamesTheFieldAndItsValue) {
  const std::pair<const char*, std::function<void(RunPlan&)>> cases[] = {
      {"rl.samples=1", [](RunPlan& p) { p.rl.samples = 1; }},
      {"rl.temperature=0", [](RunPlan& p) { p.rl.temperature = 0; }},
      {"rl.task_weights.easy=0.01", [](RunPlan& p) { p.rl.task_weights.easy = 0.01; }},
      {"rl.task_weights.pool_share=1", [](RunPlan& p) { p.rl.task_weights.pool_share = 1; }},
      {"rl.filter.max_in_a_row=0", [](RunPlan& p) { p.rl.filter.max_in_a_row = 0; }},
      {"rl.max_staleness=-1", [](RunPlan& p) { p.rl.max_staleness = -1; }},
      {"rl.max_redraws=2",
       [](RunPlan& p) {
         p.rl.max_redraws = 2;
         p.rl.filter.all_solved = true;
       }},
      {"rl.max_redraws=-1", [](RunPlan& p) { p.rl.max_redraws = -1; }},
      {"rl.advantage_eps=0", [](RunPlan& p) { p.rl.advantage.epsilon = 0; }},
      {"rl.overlong.stretch=9", [](RunPlan& p) { p.rl.overlong = {.limit = 8, .stretch = 9}; }},
      {"rl.context", [](RunPlan& p) { p.rl.context = "am"; }},
      {"heldout.also", [](RunPlan& p) { p.heldout.also = {"markov"}; }},
      {"heldout.prompts=0", [](RunPlan& p) { p.heldout.prompts = 0; }},
      {"tasks", [](RunPlan& p) { p.tasks.clear(); }},
      {"stop_strings", [](RunPlan& p) { p.stop_strings = {""}; }},
      {"peers.patience=0", [](RunPlan& p) { p.peers.patience = absl::ZeroDuration(); }},
      {"peers.call_deadline=-1", [](RunPlan& p) { p.peers.call_deadline = absl::Seconds(-1); }},
      {"sft[a].answer_noise=2", [](RunPlan& p) { p.sft = {{.name = "a", .answer_noise = 2}}; }},
      {"sft[a].name",
       [](RunPlan& p) {
         p.sft = {{.name = "a"}, {.name = "a"}};
       }},
      {"sft[a].gate.prompts=0",
       [](RunPlan& p) {
         p.sft = {{.name = "a", .gate = GateConfig{.context = "none", .prompts = 0}}};
       }},
  };
  for (const auto& [words, change] : cases) {
    RunPlan plan;
    change(plan);
    const absl::Status status = Validate(plan);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }
}

TEST(FindContextTest, NoneIsAlwaysThereAndAnUnknownNameListsTheOthers) {
  RunPlan plan;
  plan.contexts["am"].trigger = context::KvBudget{56, 28, 0.4};
  ASSERT_TRUE(FindContext(plan, "none").ok());
  EXPECT_TRUE(std::holds_alternative<context::NoTrigger>(FindContext(plan, "none")->trigger));
  EXPECT_EQ(*FindContext(plan, "am"), plan.contexts["am"]);
  EXPECT_THAT(std::string(FindContext(plan, "x").status().message()), HasSubstr("am"));
}

}  // namespace
}  // namespace palimpsest::orchestrator
