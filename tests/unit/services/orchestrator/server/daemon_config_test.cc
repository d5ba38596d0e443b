#include "services/orchestrator/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "common/config/flags.h"
#include "services/orchestrator/settings.h"

namespace palimpsest::orchestrator {
namespace {

using testing::HasSubstr;

constexpr char kYaml[] = R"(
run: {name: quickstart, folder: runs/q, seed: 5}
orchestrator:
  tasks: [registers]
  stop_strings: ["$"]
  contexts:
    am: {kind: kv_budget, budget: 56, window: 28, keep_ratio: 0.43, reference_tokens: 48}
    markov: {kind: kv_budget, budget: 56, window: 28, keep_ratio: 0, method: markovian}
  sft:
    - {name: a, max_steps: 300, batch: 32, learning_rate: {begin: 3e-3, end: 3e-3}, stop_loss: 0.01}
    - name: b
      contexts: [none, am, markov]
      answer_noise: 0.6
      gate: {context: am, greedy_reward: 0.9, every: 25, prompts: 64}
  rl:
    steps: 40
    context: am
    max_staleness: 1
    learning_rate: {begin: 1e-3, end: 1e-4, shape: cosine}
    advantage: leave_one_out
    overlong: {limit: 100, stretch: 20}
    max_redraws: 8
  heldout: {prompts: 256, also: [markov, none]}
  peers: {call_deadline: 5s}
)";

absl::StatusOr<OrchestratorDaemonConfig> Parse(const std::string& yaml) {
  ASSIGN_OR_RETURN(const Node node, ParseYaml(yaml, "run.yaml"));
  OrchestratorDaemonConfig config;
  Binder binder;
  Bind(binder, config);
  RETURN_IF_ERROR(binder.Read(node, ""));
  RETURN_IF_ERROR(Validate(config));
  return config;
}

std::map<std::string, std::string> SettingsOf(const char* from, const char* to) {
  EXPECT_THAT(kYaml, HasSubstr(from));
  const auto config = Parse(absl::StrReplaceAll(kYaml, {{from, to}}));
  EXPECT_TRUE(config.ok()) << config.status();
  const auto settings = Settings(*config);
  EXPECT_TRUE(settings.ok()) << settings.status();
  return *settings;
}

TEST(SettingsTest, AreWhatMakesTheNumbersAndNotHowFarOrWhere) {
  const auto begun = SettingsOf("none", "none");
  EXPECT_EQ(begun.at("orchestrator.contexts.am.budget"), "56");
  EXPECT_EQ(begun.at("orchestrator.sft[1].gate.prompts"), "64");
  EXPECT_EQ(begun.at("orchestrator.sft"), "2 items");
  EXPECT_EQ(begun.at("orchestrator.tasks[0]"), "registers");
  EXPECT_EQ(begun.count("orchestrator.listen"), 0);
  EXPECT_EQ(begun, SettingsOf("steps: 40", "steps: 80"));
  EXPECT_EQ(begun, SettingsOf("also: [markov, none]", "also: [none]"));
  EXPECT_NE(begun, SettingsOf("budget: 56", "budget: 57"));
  EXPECT_NE(begun, SettingsOf("stop_loss: 0.01}",
                              "stop_loss: 0.01}\n    - {name: c, max_steps: 3, batch: 32, "
                              "learning_rate: {begin: 1e-3, end: 1e-3}}"));
}

TEST(DaemonConfigTest, TheQuickstartsSectionIsRead) {
  const auto config = Parse(kYaml);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto plan = PlanOf(config->orchestrator);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->rl.max_staleness, 1);
  EXPECT_EQ(plan->rl.learning_rate.shape, RateShape::kCosine);
  EXPECT_EQ(plan->rl.advantage.kind, rl::AdvantageKind::kLeaveOneOut);
  EXPECT_EQ(plan->rl.overlong, (rl::OverlongOptions{.limit = 100, .stretch = 20}));
  EXPECT_EQ(plan->rl.max_redraws, 8);
  EXPECT_EQ(plan->peers.call_deadline, absl::Seconds(5));
  EXPECT_EQ(plan->peers.train_deadline, absl::Minutes(10)) << "the default";
  EXPECT_EQ(plan->sft.size(), 2u);
  EXPECT_EQ(plan->sft[1].gate->prompts, 64);
  const context::ContextPolicy am = *FindContext(*plan, "am");
  EXPECT_EQ(std::get<context::KvBudget>(am.trigger), (context::KvBudget{56, 28, 0.43}));
  EXPECT_EQ(am.reference_tokens, 48);
  EXPECT_EQ(FindContext(*plan, "markov")->method, context::Method::kMarkovian);
}

TEST(DaemonConfigTest, WhatIsPrintedReadsBackToTheSame) {
  const auto config = Parse(kYaml);
  ASSERT_TRUE(config.ok());
  const auto again = Parse(PrintConfig(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, *config);
}

TEST(DaemonConfigTest, NeitherGrpcNorMetricsGoBeyondLoopbackUnlessToldSo) {
  OrchestratorDaemonConfig config = *Parse(kYaml);
  config.orchestrator.serve.metrics = "0.0.0.0:0";
  EXPECT_THAT(std::string(Validate(config).message()), HasSubstr("orchestrator.insecure: true"));
  config.orchestrator.serve.rpc.insecure = true;
  EXPECT_TRUE(Validate(config).ok());
}

TEST(DaemonConfigTest, AFieldThatTheKindDoesNotReadIsRefused) {
  ContextSection section{.kind = "segments", .budget = 5, .window = 28, .every = 16};
  EXPECT_THAT(std::string(ToPolicy(section, "c").status().message()), HasSubstr("c.budget=5"));
  section.budget.reset();
  EXPECT_TRUE(ToPolicy(section, "c").ok());
  section.every.reset();
  EXPECT_THAT(std::string(ToPolicy(section, "c").status().message()), HasSubstr("c.every"));
  section.kind = "x";
  EXPECT_THAT(std::string(ToPolicy(section, "c").status().message()), HasSubstr("c.kind='x'"));
}

TEST(DaemonConfigTest, EarlyIsOfABudgetAlone) {
  ContextSection section{.budget = 56, .window = 28, .early = 0.25};
  const auto policy = ToPolicy(section, "c");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(std::get<context::KvBudget>(policy->trigger).EarliestLive(), 42);
  section = {.kind = "segments", .window = 28, .every = 16, .early = 0.25};
  EXPECT_THAT(std::string(ToPolicy(section, "c").status().message()), HasSubstr("c.early=0.25"));
}

TEST(DaemonConfigTest, AnUnknownNameIsRefusedUnderItsKey) {
  const auto refusal = [](const ContextSection& section) {
    return std::string(ToPolicy(section, "c").status().message());
  };
  const ContextSection good{.budget = 56, .window = 28};
  ContextSection section = good;
  section.method = "magic";
  EXPECT_THAT(refusal(section), HasSubstr("c.method: "));
  section = good;
  section.chooser = "magic";
  EXPECT_THAT(refusal(section), HasSubstr("c.chooser: "));
  section = good;
  section.reference_kind = "magic";
  EXPECT_THAT(refusal(section), HasSubstr("c.reference_kind: "));
}

TEST(DaemonConfigTest, APolicyThatCanNeverWorkIsRefusedAtTheStart) {
  const ContextSection section{.budget = 20, .window = 28};
  EXPECT_THAT(std::string(ToPolicy(section, "orchestrator.contexts.am").status().message()),
              HasSubstr("orchestrator.contexts.am"));
}

}  // namespace
}  // namespace palimpsest::orchestrator
