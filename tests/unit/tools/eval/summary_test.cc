#include "tools/eval/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/eval/live_slots.h"
#include "tools/eval/report.h"

namespace palimpsest::tools::eval {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(LiveSlotsTest, AreCountedWhenTheTokenIsDrawn) {
  rl::Rollout rollout{.tokens = std::vector<int32_t>(12), .prompt_tokens = 4};
  const LiveSlots plain = *SlotsWhileDrawn(rollout);
  EXPECT_EQ(plain.peak, 11);
  EXPECT_DOUBLE_EQ(plain.mean, (4 + 11) / 2.);
  // Drawn from 4 to 8 slots; then 4 of them become 1, and the tokens go on from 6.
  context::Event event{.at = 8, .window = {4, 8}, .method = context::Method::kEvict};
  event.kept = context::KeptPositions({1, 2});
  event.kept.AddHead(std::vector<int32_t>{5});
  event.kept.AddHead(std::vector<int32_t>{7});
  rollout.events = {event};
  const LiveSlots slots = *SlotsWhileDrawn(rollout);
  EXPECT_EQ(slots.peak, 8);
  EXPECT_DOUBLE_EQ(slots.mean, (4 + 5 + 6 + 7 + 8 + 6 + 7 + 8) / 8.);
  rollout.events.front().window = {4, 9};  // past what was processed
  EXPECT_EQ(SlotsWhileDrawn(rollout).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SlotBytesTest, AreKeyValueAndBiasOfEveryHead) {
  EXPECT_EQ(SlotBytes({.layers = 4, .kv_heads = 2, .head_dim = 32, .dtype = "float32"}),
            4 * 2 * (2 * 32 * 4 + 4));
  EXPECT_EQ(SlotBytes({.layers = 4, .kv_heads = 2, .head_dim = 32, .dtype = "bfloat16"}),
            4 * 2 * (2 * 32 * 2 + 4));
}

TEST(EventGroupTest, GrowsByPowersOfTwo) {
  const auto group = [](int32_t events) { return EventGroup(events); };
  EXPECT_EQ(group(0), "0");
  EXPECT_EQ(group(1), "1");
  EXPECT_EQ(group(2), "2");
  EXPECT_EQ(group(3), "3-4");
  EXPECT_EQ(group(4), "3-4");
  EXPECT_EQ(group(5), "5-8");
  EXPECT_EQ(group(16), "9-16");
}

// Two prompts of a and one of b, two samples, policies x and y. y lacks (a, 1, #1).
class SummaryTest : public ::testing::Test {
 protected:
  SummaryTest() {
    plan_.policies = *ParsePolicies({"x", "y:kind=kv_budget,budget=40,window=8"}, "");
    Add("a", 0, "x", {1, 0.5}, 0);
    Add("a", 1, "x", {1, 1}, 0);
    Add("b", 0, "x", {0, 0}, 0);
    Add("a", 0, "y", {1, 1}, 2);
    Add("a", 1, "y", {0.5}, 3);
    Add("b", 0, "y", {0, 1}, 4);
    Add("a", 7, "x", {0, 0}, 0);  // of no prompt of the plan
    missing_ = {{{"a", "heldout", 0, 1, "y", 1}, "UNAVAILABLE: gone"}};
  }
  void Add(const std::string& task, int64_t index, const std::string& policy,
           const std::vector<double>& rewards, int32_t events) {
    for (size_t i = 0; i < rewards.size(); ++i) {
      const AnswerKey key{task, "heldout", 0, index, policy, static_cast<int32_t>(i)};
      answers_[key] = {
          .key = key,
          .reward = rewards[i],
          .tags = index == 0 ? std::vector<std::string>{"first"} : std::vector<std::string>{},
          .finish = rewards[i] == 0 ? "length" : "stop",
          .prompt_tokens = 10,
          .tokens = 20,
          .events = events,
          .mean_slots = policy == "x" ? 20.0 : 12.0,
          .peak_slots = policy == "x" ? 29 : 16,
          .seconds = 2};
    }
  }
  Summary Make() const { return Summarize(plan_, model_, answers_, missing_); }

  Plan plan_{.tasks = {{"a", 2}, {"b", 1}}, .samples = 2};
  const ModelFacts model_{
      .architecture = "qwen3", .layers = 2, .kv_heads = 2, .head_dim = 8, .dtype = "float32"};
  std::map<AnswerKey, Answer> answers_;
  std::vector<Missing> missing_;
};

TEST_F(SummaryTest, MeansAreOverPromptsAndTheMissingAreNoZeros) {
  const Summary summary = Make();
  ASSERT_EQ(summary.policies.size(), 2);
  const PolicySummary &x = summary.policies[0], &y = summary.policies[1];
  EXPECT_EQ(x.all.prompts, 3);
  EXPECT_EQ(x.all.answers, 6);
  EXPECT_DOUBLE_EQ(x.all.pass_1->value, (0.5 + 1 + 0) / 3);
  EXPECT_DOUBLE_EQ(x.all.avg->value, (0.75 + 1 + 0) / 3);
  ASSERT_EQ(x.all.pass_k.size(), 1);
  EXPECT_EQ(x.all.pass_k[0].first, 2);
  EXPECT_DOUBLE_EQ(x.all.pass_k[0].second.value, (1 + 1 + 0) / 3.);
  EXPECT_EQ(x.missing, 0);
  EXPECT_EQ(y.missing, 1);
  EXPECT_EQ(y.all.answers, 5);
  EXPECT_DOUBLE_EQ(y.all.avg->value, (1 + 0.5 + 0.5) / 3);  // as a 0 it would be 0.583
  EXPECT_DOUBLE_EQ(y.all.pass_1->value, (1 + 0 + 0.5) / 3);
  EXPECT_EQ(y.all.pass_k[0].second.prompts, 2);  // two answers are needed
  EXPECT_DOUBLE_EQ(y.all.pass_k[0].second.value, 1);
}

TEST_F(SummaryTest, PartsOfARewardAreMeansOverThePromptsThatHaveThem) {
  EXPECT_TRUE(Make().policies[0].all.parts.empty());
  const auto part = [&](const std::string& task, int64_t index, int32_t sample, double value) {
    answers_.at({task, "heldout", 0, index, "x", sample}).parts["strict"] = value;
  };
  part("a", 0, 0, 1);
  part("a", 0, 1, 0.5);
  part("b", 0, 1, 0.25);
  const Summary summary = Make();
  const PolicySummary& x = summary.policies[0];
  EXPECT_DOUBLE_EQ(x.all.parts.at("strict").value, (0.75 + 0.25) / 2);
  EXPECT_EQ(x.all.parts.at("strict").prompts, 2);
  EXPECT_DOUBLE_EQ(x.tasks[0].scores.parts.at("strict").value, 0.75);
  EXPECT_THAT(ReportPage(summary, "c"), HasSubstr("| strict | 0.500 ["));
  const auto report = nlohmann::json::parse(ReportJson(summary, "c"));
  EXPECT_EQ(report["policies"][0]["all"]["parts"]["strict"]["value"], 0.5);
  EXPECT_FALSE(report["policies"][1]["all"].contains("parts"));
}

TEST_F(SummaryTest, GroupsHoldTheirPromptsOrTheirAnswers) {
  const Summary summary = Make();
  const PolicySummary& y = summary.policies[1];
  ASSERT_EQ(y.tasks.size(), 2);
  EXPECT_EQ(y.tasks[0].name, "a");
  EXPECT_DOUBLE_EQ(y.tasks[0].scores.avg->value, 0.75);
  EXPECT_DOUBLE_EQ(y.tasks[1].scores.avg->value, 0.5);
  ASSERT_EQ(y.tags.size(), 1);
  EXPECT_DOUBLE_EQ(y.tags[0].scores.avg->value, 0.75);
  ASSERT_EQ(y.events.size(), 2);
  EXPECT_EQ(y.events[0].name, "2");
  EXPECT_DOUBLE_EQ(y.events[0].scores.avg->value, 1);
  EXPECT_EQ(y.events[1].name, "3-4");
  EXPECT_EQ(y.events[1].scores.answers, 3);
  EXPECT_DOUBLE_EQ(y.events[1].scores.avg->value, 0.5);
  EXPECT_DOUBLE_EQ(y.events[1].scores.pass_1->value, 1 / 3.);
}

TEST_F(SummaryTest, DifferencesAreOverTheSamplesThatBothAnswered) {
  const Summary summary = Make();
  EXPECT_FALSE(summary.policies[0].paired.has_value());
  const Paired& paired = *summary.policies[1].paired;
  EXPECT_DOUBLE_EQ(paired.avg->value, (0.25 - 0.5 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(paired.pass_1->value, (0.5 - 1 + 0.5) / 3);
  EXPECT_EQ(paired.signs.better, 2);
  EXPECT_EQ(paired.signs.worse, 1);
}

TEST_F(SummaryTest, APolicyAgainstItselfDiffersByNothing) {
  plan_.policies = *ParsePolicies({"x", "twin"}, "");
  Add("a", 0, "twin", {1, 0.5}, 0);
  Add("a", 1, "twin", {1, 1}, 0);
  Add("b", 0, "twin", {0, 0}, 0);
  const Summary summary = Make();
  const Paired& paired = *summary.policies[1].paired;
  EXPECT_EQ(paired.avg->low, 0);
  EXPECT_EQ(paired.avg->high, 0);
  EXPECT_EQ(paired.signs.p, 1);
  EXPECT_LT(summary.policies[1].all.avg->low, summary.policies[1].all.avg->high);  // the control
}

TEST_F(SummaryTest, TheSameRewardsInAnotherOrderAreNoDifference) {
  plan_.samples = 3;
  plan_.policies = *ParsePolicies({"x", "turned"}, "");
  Add("a", 0, "x", {0.01, 1, 0.05}, 0);
  Add("a", 0, "turned", {1, 0.05, 0.01}, 0);
  ASSERT_NE((0.01 - 1) + (1 - 0.05) + (0.05 - 0.01), 0);  // the control
  const Summary summary = Make();
  const Paired& paired = *summary.policies[1].paired;
  EXPECT_EQ(paired.signs.better, 0);
  EXPECT_EQ(paired.signs.worse, 0);
}

TEST_F(SummaryTest, CostIsPerAnswer) {
  const Cost cost = Make().policies[1].cost;
  EXPECT_DOUBLE_EQ(cost.events, (2 + 2 + 3 + 4 + 4) / 5.);
  EXPECT_DOUBLE_EQ(cost.cut, 0.2);
  EXPECT_EQ(cost.peak_slots, 16);
  EXPECT_DOUBLE_EQ(cost.kv_bytes, 12 * 2 * 2 * (2 * 8 * 4 + 4));
}

TEST_F(SummaryTest, TheReportSaysWhatTheSummarySays) {
  const Summary summary = Make();
  const auto json = nlohmann::json::parse(ReportJson(summary, "palimpsest eval"));
  const auto& y = json["policies"][1];
  EXPECT_EQ(y["name"], "y");
  EXPECT_DOUBLE_EQ(y["all"]["reward"]["value"], 2 / 3.);
  EXPECT_DOUBLE_EQ(y["all"]["pass@2"]["value"], 1);
  EXPECT_DOUBLE_EQ(y["minus_first"]["reward"]["value"], 0.25 / 3);
  EXPECT_EQ(y["minus_first"]["sign_test"]["better"], 2);
  EXPECT_EQ(y["events"]["3-4"]["answers"], 3);
  EXPECT_EQ(json["missing"][0]["why"], "UNAVAILABLE: gone");
  EXPECT_FALSE(json["policies"][0].contains("minus_first"));

  const std::string page = ReportPage(summary, "palimpsest eval --n 3");
  EXPECT_THAT(page, HasSubstr("`palimpsest eval --n 3`"));
  EXPECT_THAT(page, HasSubstr("| y | 5 | 1 | 0.500 ["));
  EXPECT_THAT(page, HasSubstr("| a | 0.750, 0.875 (4) | 0.500, 0.750 (3) |"));
  EXPECT_THAT(page, HasSubstr("| 0 | 0.500, 0.583 (6) | - |"));
  EXPECT_THAT(page, HasSubstr("2 / 1 / 0 | 1 |"));
  EXPECT_THAT(page, HasSubstr("a/heldout/0/1 y #1: UNAVAILABLE: gone"));

  const std::string picture = ReportPicture(summary);
  EXPECT_THAT(picture, HasSubstr("1 missing"));
  EXPECT_THAT(picture, HasSubstr(">0.583<"));
  EXPECT_THAT(picture, Not(HasSubstr("nan")));
}

TEST_F(SummaryTest, GroupsOfEventsStandInOrderWhoeverHasThem) {
  Add("b", 0, "x", {0, 0}, 40);
  const std::string page = ReportPage(Make(), "c");
  EXPECT_LT(page.find("| 0 | "), page.find("| 2 | "));
  EXPECT_LT(page.find("| 2 | "), page.find("| 3-4 | "));
  EXPECT_LT(page.find("| 3-4 | "), page.find("| 33-64 | "));
}

TEST_F(SummaryTest, NoAnswersAtAllAreNoNumbers) {
  answers_.clear();
  const Summary summary = Make();
  EXPECT_FALSE(summary.policies[0].all.avg.has_value());
  EXPECT_THAT(ReportPage(summary, "c"), HasSubstr("| x | 0 | 0 | - | - | - |"));
  EXPECT_THAT(ReportPicture(summary), Not(HasSubstr("nan")));
  EXPECT_TRUE(
      nlohmann::json::parse(ReportJson(summary, "c"))["policies"][0]["all"]["reward"].is_null());
}

}  // namespace
}  // namespace palimpsest::tools::eval
