#include "tools/eval/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/eval/eval.h"
#include "tools/eval/plan.h"
#include "tools/eval/services.h"

namespace palimpsest::tools::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Why(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(PolicyTest, ReadsTheKeysOfContext) {
  const Policy am = *ParsePolicy(
      "am:kind=kv_budget,budget=56,window=28,keep_ratio=0.5,method=evict,chooser=recent");
  EXPECT_EQ(am.name, "am");
  const auto& trigger = std::get<context::KvBudget>(am.context.trigger);
  EXPECT_EQ(trigger, (context::KvBudget{.budget = 56, .window = 28, .keep_ratio = 0.5}));
  EXPECT_EQ(am.context.method, context::Method::kEvict);
  EXPECT_EQ(am.context.parameters.chooser, context::Chooser::kRecent);
  EXPECT_EQ(am.length, 0);
  const Policy none = *ParsePolicy("full");
  EXPECT_TRUE(std::holds_alternative<context::NoTrigger>(none.context.trigger));
  EXPECT_FALSE(none.messages.has_value());
  EXPECT_EQ(ParsePolicy("short:kind=short,budget=30")->length, 30);
  const auto segments = ParsePolicy("s:kind=segments,every=16,window=8");
  EXPECT_EQ(std::get<context::Segments>(segments->context.trigger).every, 16);
  const auto turns = ParsePolicy("t:kind=turns,n_protect_turns=2,max_turns=4,keep_ratio=0.2");
  EXPECT_EQ(std::get<context::Turns>(turns->context.trigger),
            (context::Turns{.n_protect_turns = 2, .max_turns = 4, .keep_ratio = 0.2}));
}

TEST(PolicyTest, InjectsWithAndWithoutCompaction) {
  const Policy only = *ParsePolicy("clock:inject=<{left}>,inject_every=32");
  EXPECT_TRUE(std::holds_alternative<context::NoTrigger>(only.context.trigger));
  EXPECT_EQ(*only.messages, (rl::BudgetMessages{.text = "<{left}>", .every = 32}));
  const Policy both =
      *ParsePolicy("b:kind=kv_budget,budget=40,window=8,inject=!,inject_at_events=true");
  EXPECT_TRUE(both.messages->at_events);
}

TEST(PolicyTest, AggregatesAttemptsWithAndWithoutCompaction) {
  const Policy plain = *ParsePolicy("rsa:population=4,aggregate=2,rounds=3");
  EXPECT_EQ(plain.aggregation, (Aggregation{.population = 4, .aggregate = 2, .rounds = 3}));
  EXPECT_TRUE(std::holds_alternative<context::NoTrigger>(plain.context.trigger));
  const Policy both =
      *ParsePolicy("rsa:kind=kv_budget,budget=40,window=8,population=4,aggregate=4,rounds=2");
  EXPECT_TRUE(std::holds_alternative<context::KvBudget>(both.context.trigger));
  EXPECT_EQ(both.aggregation.aggregate, 4);
  EXPECT_EQ(ParsePolicy("full")->aggregation, Aggregation{});
  EXPECT_THAT(Why(ParsePolicy("a:population=4,rounds=3").status()), HasSubstr("go together"));
  EXPECT_THAT(Why(ParsePolicy("a:population=4,aggregate=5,rounds=3").status()),
              HasSubstr("aggregate=5"));
  EXPECT_THAT(Why(ParsePolicy("a:population=4,aggregate=2,rounds=0").status()),
              HasSubstr("rounds=0"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=short,budget=9,population=4,aggregate=2,rounds=2").status()),
              HasSubstr("kind=short"));
  EXPECT_THAT(
      Why(ParsePolicy("a:kind=turns,n_protect_turns=1,population=4,aggregate=2,rounds=2").status()),
      HasSubstr("kind=turns"));
}

TEST(PolicyTest, WhatMakesNoSenseIsRefusedByName) {
  EXPECT_THAT(Why(ParsePolicy(":kind=none").status()), HasSubstr("a name is"));
  EXPECT_THAT(Why(ParsePolicy("a b").status()), HasSubstr("a name is"));
  EXPECT_THAT(Why(ParsePolicy("a:kind").status()), HasSubstr("\"kind\" is not key=value"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=none,kind=none").status()), HasSubstr("stands twice"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=turns").status()), HasSubstr("n_protect_turns"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=turns,n_protect_turns=2,max_turns=2").status()),
              HasSubstr("max_turns"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=other").status()), HasSubstr("other"));
  EXPECT_THAT(Why(ParsePolicy("a:budget=3").status()), HasSubstr("budget=3"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=kv_budget,budget=9").status()), HasSubstr("window"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=kv_budget,budget=9,window=4,depth=1").status()),
              HasSubstr("\"depth\""));
  EXPECT_THAT(Why(ParsePolicy("a:kind=kv_budget,budget=9,window=12").status()),
              HasSubstr("--policy a:"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=short,budget=0").status()), HasSubstr("budget=0"));
  EXPECT_THAT(Why(ParsePolicy("a:kind=short,budget=9,window=3").status()), HasSubstr("\"window\""));
  EXPECT_THAT(Why(ParsePolicy("a:kind=short,budget=9,inject=x,inject_every=2").status()),
              HasSubstr("beyond the budget"));
  EXPECT_THAT(Why(ParsePolicy("a:inject=hey").status()), HasSubstr("inject_every"));
  EXPECT_THAT(Why(ParsePolicy("a:inject_every=4").status()), HasSubstr("needs a text"));
  EXPECT_THAT(Why(ParsePolicy("a:inject=x,inject_every=-1").status()),
              HasSubstr("inject_every=-1"));
}

TEST(PolicyTest, BaselinesAreSixWaysWithinOneBudget) {
  const auto all =
      *ParsePolicies({}, "budget=56,window=28,keep_ratio=0.4,reference_tokens=48,protect=3");
  std::vector<std::string> names;
  for (const Policy& policy : all) names.push_back(policy.name);
  ASSERT_THAT(names, ElementsAre("full", "short", "recent", "attention", "markovian",
                                 "attention_matching"));
  EXPECT_TRUE(std::holds_alternative<context::NoTrigger>(all[0].context.trigger));
  EXPECT_EQ(all[0].length, 0);
  EXPECT_EQ(all[1].length, 56);
  for (size_t i = 2; i < all.size(); ++i) {
    const auto& trigger = std::get<context::KvBudget>(all[i].context.trigger);
    EXPECT_EQ(trigger.budget, 56) << names[i];
    EXPECT_EQ(trigger.window, 28) << names[i];
    EXPECT_EQ(all[i].context.protect, 3) << names[i];
    EXPECT_EQ(trigger.keep_ratio, i == 4 ? 0.25 : 0.4) << names[i];
    EXPECT_EQ(all[i].context.reference_tokens, i == 4 ? 128 : 48) << names[i];
  }
  EXPECT_EQ(all[2].context.parameters.chooser, context::Chooser::kRecent);
  EXPECT_EQ(all[3].context.parameters.chooser, context::Chooser::kAttention);
  EXPECT_EQ(all[3].context.method, context::Method::kEvict);
  EXPECT_EQ(all[4].context.method, context::Method::kMarkovian);
  EXPECT_EQ(all[5].context.method, context::Method::kAttentionMatching);
  EXPECT_THAT(Why(ParseBaselines("budget=56").status()), HasSubstr("window is not given"));
  EXPECT_THAT(Why(ParseBaselines("budget=56,window=28,method=evict").status()),
              HasSubstr("method is not for all"));
  EXPECT_THAT(Why(ParsePolicies({"full"}, "budget=56,window=28").status()), HasSubstr("\"full\""));
  EXPECT_THAT(Why(ParsePolicies({}, "").status()), HasSubstr("--baselines"));
}

TEST(PlanTest, TasksShareThePromptsByWeight) {
  EXPECT_THAT(*ParseTasks("a", 7), ElementsAre(TaskShare{"a", 7}));
  EXPECT_THAT(*ParseTasks("a,b=2,c=0.5", 10),
              ElementsAre(TaskShare{"a", 3}, TaskShare{"b", 6}, TaskShare{"c", 1}));
  EXPECT_THAT(*ParseTasks("a,b,c", 10),
              ElementsAre(TaskShare{"a", 4}, TaskShare{"b", 3}, TaskShare{"c", 3}));
  EXPECT_THAT(Why(ParseTasks("a,b=100", 10).status()), HasSubstr("\"a\""));
  EXPECT_THAT(Why(ParseTasks("a,a", 10).status()), HasSubstr("stands twice"));
  EXPECT_THAT(Why(ParseTasks("a=0", 10).status()), HasSubstr("a=0"));
  EXPECT_THAT(Why(ParseTasks("a=nan", 10).status()), HasSubstr("a=nan"));
  EXPECT_THAT(Why(ParseTasks("", 10).status()), HasSubstr("empty"));
}

Plan APlan() {
  Plan plan{.tasks = {{"a", 2}}, .seed = 3, .samples = 2};
  plan.policies = *ParsePolicies({"x", "y:kind=short,budget=9"}, "");
  return plan;
}

TEST(PlanTest, PoliciesStandSideBySide) {
  std::vector<std::string> texts;
  for (const AnswerKey& key : KeysOf(APlan())) texts.push_back(Text(key));
  EXPECT_THAT(texts, ElementsAre("a/heldout/3/0 x #0", "a/heldout/3/0 y #0", "a/heldout/3/0 x #1",
                                 "a/heldout/3/0 y #1", "a/heldout/3/1 x #0", "a/heldout/3/1 y #0",
                                 "a/heldout/3/1 x #1", "a/heldout/3/1 y #1"));
}

TEST(PlanTest, TasksTakeTurnsUntilTheirPromptsAreThere) {
  Plan plan{.tasks = {{"a", 3}, {"b", 1}}, .policies = *ParsePolicies({"x"}, "")};
  std::vector<std::string> prompts;
  for (const AnswerKey& key : KeysOf(plan)) {
    prompts.push_back(key.task + std::to_string(key.index));
  }
  EXPECT_THAT(prompts, ElementsAre("a0", "b0", "a1", "a2"));
}

TEST(PlanTest, SettingsMayGrowButNotChange) {
  const Settings stored = SettingsOf(APlan());
  Plan more = APlan();
  more.tasks = {{"a", 9}, {"b", 3}};
  more.samples = 8;
  more.policies = *ParsePolicies({"x", "z:kind=short,budget=4"}, "");
  const Settings merged = *MergeSettings(stored, SettingsOf(more));
  EXPECT_EQ(merged.at("policy.y"), "kind=short,budget=9");
  EXPECT_EQ(merged.at("policy.z"), "kind=short,budget=4");
  more.temperature = 0.5;
  const absl::Status refused = MergeSettings(stored, SettingsOf(more)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("temperature was \"1\" and is \"0.5\" now"));
  Plan other = APlan();
  other.policies = *ParsePolicies({"x:kind=short,budget=9"}, "");
  EXPECT_THAT(MergeSettings(stored, SettingsOf(other)).status().message(), HasSubstr("policy.x"));
}

TEST(PlanTest, AnEnvironmentNeitherChangesNorGrows) {
  Settings stored = SettingsOf(APlan());
  Settings now = stored;
  now["env.registers.lines"] = "9";
  EXPECT_TRUE(MergeSettings(stored, now).ok()) << "of before environments were kept";
  stored["env.registers.lines"] = "8";
  EXPECT_THAT(MergeSettings(stored, now).status().message(), HasSubstr("was \"8\" and is \"9\""));
  now["env.registers.lines"] = "8";
  EXPECT_TRUE(MergeSettings(stored, now).ok());
  now["env.tally.registers"] = "4";
  EXPECT_THAT(MergeSettings(stored, now).status().message(), HasSubstr("was not given before"));
  EXPECT_THAT(MergeSettings(now, stored).status().message(), HasSubstr("is not given now"));
}

TEST(PlanTest, TasksThatAreNotThereOrTooSmallAreRefused) {
  const std::vector<TaskFacts> tasks = {{.name = "a", .train_size = 1, .heldout_size = 2},
                                        {.name = "talk", .multi_turn = true}};
  Plan plan = APlan();
  EXPECT_TRUE(CheckTasks(plan, tasks).ok());
  plan.split = "train";
  EXPECT_THAT(Why(CheckTasks(plan, tasks)), HasSubstr("its split train has 1"));
  plan.split = "sft";  // any number
  EXPECT_TRUE(CheckTasks(plan, tasks).ok());
  plan.tasks = {{"b", 1}};
  EXPECT_THAT(Why(CheckTasks(plan, tasks)), HasSubstr("there are: a, talk"));
}

TEST(PlanTest, TurnsAreCompactedWhereThereAreSomeAndAttemptsAggregatedWhereThereAreNone) {
  const std::vector<TaskFacts> tasks = {{.name = "a"}, {.name = "talk", .multi_turn = true}};
  Plan plan{.tasks = {{"talk", 1}},
            .policies = *ParsePolicies({"t:kind=turns,n_protect_turns=1"}, "")};
  EXPECT_TRUE(CheckTasks(plan, tasks).ok());
  plan.tasks = {{"talk", 1}, {"a", 1}};
  EXPECT_THAT(Why(CheckTasks(plan, tasks)), HasSubstr("--policy t: it compacts turns, but \"a\""));
  plan.policies = *ParsePolicies({"r:population=2,aggregate=1,rounds=2"}, "");
  EXPECT_THAT(Why(CheckTasks(plan, tasks)),
              HasSubstr("--policy r: it aggregates attempts, but \"talk\""));
  plan.tasks = {{"a", 1}};
  EXPECT_TRUE(CheckTasks(plan, tasks).ok());
}

TEST(EvalOptionsTest, ACommandLineThatMakesNoSenseIsRefusedByName) {
  const EvalOptions good{.server = "a:1", .env = "b:2", .tasks = "a", .policies = {"full"}};
  ASSERT_TRUE(CheckEval(good).ok()) << CheckEval(good);
  const auto why = [&good](auto change) {
    EvalOptions options = good;
    change(options);
    return Why(CheckEval(options));
  };
  EXPECT_THAT(why([](EvalOptions& o) { o.server = ""; }), HasSubstr("--server and --model"));
  EXPECT_THAT(why([](EvalOptions& o) { o.model = "m"; }), HasSubstr("--server and --model"));
  EXPECT_THAT(why([](EvalOptions& o) { o.config = "c"; }), HasSubstr("--env and --config"));
  EXPECT_THAT(why([](EvalOptions& o) { o.sets = {"env.a=1"}; }), HasSubstr("--set env.a=1"));
  EXPECT_THAT(why([](EvalOptions& o) { o.n = 0; }), HasSubstr("--n 0"));
  EXPECT_THAT(why([](EvalOptions& o) { o.samples = 0; }), HasSubstr("--samples 0"));
  EXPECT_THAT(why([](EvalOptions& o) { o.temperature = -1; }), HasSubstr("--temperature -1"));
  EXPECT_THAT(why([](EvalOptions& o) { o.max_tokens = -1; }), HasSubstr("--max-tokens -1"));
  EXPECT_THAT(why([](EvalOptions& o) { o.concurrency = 0; }), HasSubstr("--concurrency 0"));
  EXPECT_THAT(why([](EvalOptions& o) { o.tries = 0; }), HasSubstr("--tries 0"));
  EXPECT_THAT(why([](EvalOptions& o) { o.split = "test"; }), HasSubstr("--split test"));
  EXPECT_THAT(why([](EvalOptions& o) { o.policies = {}; }), HasSubstr("--policy"));
}

}  // namespace
}  // namespace palimpsest::tools::eval
