#include "services/orchestrator/web/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace palimpsest::orchestrator {
namespace {

using nlohmann::json;

std::vector<StepRow> Steps(int sft, int rl) {
  std::vector<StepRow> steps;
  for (int i = 1; i <= sft + rl; ++i) {
    StepRow row{.step = i, .stage = i <= sft ? "warm" : "rl", .loss = 0.5 * i};
    if (i > sft) {
      row.reward = i;
      row.mismatch_max_abs = 1.0 / i;
      row.staleness_max = i % 3;
      row.sampled_tokens = 100;
      row.generate_seconds = 4;
    }
    steps.push_back(row);
  }
  return steps;
}

TEST(CurvesJsonTest, FewStepsAreToldOneByOne) {
  const json curves = CurvesJson(Steps(2, 3), {}, 600);
  ASSERT_EQ(curves["steps"].size(), 5u);
  EXPECT_EQ(curves["stride"], 1);
  EXPECT_TRUE(curves["steps"][1]["rl_step"].is_null());
  EXPECT_TRUE(curves["steps"][1]["reward"].is_null());
  EXPECT_EQ(curves["steps"][2]["rl_step"], 1);
  EXPECT_EQ(curves["steps"][4]["reward"], 5.0);
  EXPECT_EQ(curves["steps"][4]["tokens_per_second"], 25.0);
}

TEST(CurvesJsonTest, ManyStepsBecomeMeansAndTheWorstOfWhatIsWorst) {
  const std::vector<StepRow> steps = Steps(10, 1000);
  const json curves = CurvesJson(steps, {}, 100);
  EXPECT_LE(curves["steps"].size(), 102u);  // a stage may end within a point
  const json& first = curves["steps"][1];
  EXPECT_EQ(first["stage"], "rl");
  EXPECT_EQ(first["step"], 21);
  EXPECT_EQ(first["rl_step"], 11);
  EXPECT_EQ(first["reward"], 16.0);  // of 11 to 21
  EXPECT_EQ(first["mismatch_max_abs"], 1.0 / 11);
  EXPECT_EQ(first["staleness_max"], 2);
  EXPECT_EQ(curves["steps"].back()["step"], 1010);
}

TEST(CurvesJsonTest, HeldoutMeansStandWhereTheyWereMeasured) {
  const json heldout = CurvesJson(Steps(1, 4),
                                  {{"first", false, 0.25, 8},
                                   {"step-3", true, 0.5, 8},
                                   {"last", false, 0.75, 8},
                                   {"also.none", true, 1, 8},
                                   {"step-x", true, 1, 8}},
                                  600)["heldout"];
  std::vector<json> at;
  for (const json& mean : heldout) at.push_back(mean["rl_step"]);
  EXPECT_EQ(at, (std::vector<json>{0, 3, 4, nullptr, nullptr}));
}

TEST(ProgressJsonTest, WhatIsNoNumberIsNull) {
  Progress p{.run = "r"};
  p.reward = std::nan("");
  p.mismatch_kl = HUGE_VAL;
  const json told = ProgressJson(p, "rl", true);
  EXPECT_TRUE(told["reward"].is_null());
  EXPECT_TRUE(told["mismatch_kl"].is_null());
  EXPECT_TRUE(told["left_seconds"].is_null());
  EXPECT_EQ(told["phase"], "rl");
}

TEST(RolloutJsonTest, KeptHeadsAreCountedByPositionOfTheWindow) {
  rl::Rollout rollout{.tokens = {1, 2, 3, 4}, .prompt_tokens = 1};
  rollout.origins = {rl::Origin::kPrompt, rl::Origin::kSampled, rl::Origin::kInjected,
                     rl::Origin::kSampled};
  rollout.logprobs = {0, -1, 0, -HUGE_VALF};
  context::Event event{.at = 3, .window = {1, 3}};
  event.kept = context::KeptPositions({1, 2});
  event.kept.AddHead(std::vector<int32_t>{1, 2});
  event.kept.AddHead(std::vector<int32_t>{2});
  rollout.events = {event};
  const json told = RolloutJson({}, rollout, {"a", "\xff", "c", "\x1b[2J"}, {}, std::nullopt);
  EXPECT_EQ(told["origins"], "psis");
  EXPECT_EQ(told["logprobs"], json::parse("[null, -1.0, null, null]"));
  EXPECT_TRUE(told["replayed"].is_null());
  const std::vector<float> replayed = {0, -0.5f, 0, NAN};
  EXPECT_EQ(RolloutJson({}, rollout, {}, replayed, std::nullopt)["replayed"],
            json::parse("[null, -0.5, null, null]"));
  EXPECT_EQ(told["events_list"][0]["kept_heads"], json::parse("[1, 2]"));
  EXPECT_EQ(told["events_list"][0]["kept_least"], 1);
  EXPECT_EQ(told["events_list"][0]["kept_most"], 2);
  EXPECT_EQ(KeptJson(rollout, 0)["kept"], json::parse("[[[1, 2], [2]]]"));
  EXPECT_EQ(told["pieces"][3], "\\x1b[2J");
  EXPECT_NE(Dump(told).find("\xef\xbf\xbd"), std::string::npos);  // U+FFFD
}

TEST(KeptJsonTest, WhatAHeadHeldBeforeIsWhatEarlierEventsLeftIt) {
  const auto event = [](int at, context::Range window, std::vector<int32_t> first,
                        std::vector<int32_t> second) {
    context::Event e{.at = at, .window = window};
    e.kept = context::KeptPositions({1, 2});
    e.kept.AddHead(first);
    e.kept.AddHead(second);
    return e;
  };
  rl::Rollout rollout{.tokens = std::vector<int32_t>(9, 7)};
  rollout.events = {event(4, {1, 4}, {2}, {1, 3}), event(6, {1, 5}, {2, 4}, {3})};
  EXPECT_EQ(KeptJson(rollout, 0)["held"], json::parse("[[[1, 2, 3], [1, 2, 3]]]"));
  EXPECT_EQ(KeptJson(rollout, 1)["held"], json::parse("[[[2, 4], [1, 3, 4]]]"));
  EXPECT_EQ(KeptJson(rollout, 1)["kept"], json::parse("[[[2, 4], [3]]]"));
  rollout.events[0].window = {0, 9};  // beyond what there was
  EXPECT_TRUE(KeptJson(rollout, 1)["held"].is_null());
}

}  // namespace
}  // namespace palimpsest::orchestrator
