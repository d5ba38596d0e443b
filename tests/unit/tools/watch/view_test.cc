#include "tools/watch/view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace palimpsest::tools {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

WatchFacts Facts() {
  WatchFacts facts;
  facts.progress = json::parse(R"({"run": "r", "phase": "rl", "stage": "rl", "step": 3,
    "total_steps": 9, "elapsed_seconds": 3723.4, "left_seconds": null, "policy_version": 7,
    "failure": ""})");
  facts.curves = json::parse(R"({"steps": [{"rl_step": null, "reward": null},
    {"rl_step": 1, "reward": 0.0, "mismatch_kl": 1e-6},
    {"rl_step": 2, "reward": 0.5, "mismatch_kl": 1e-5},
    {"rl_step": 3, "reward": 1.0, "mismatch_kl": 1e-4}],
    "heldout": [{"name": "first", "greedy": false, "reward": 0.25},
                {"name": "first", "greedy": true, "reward": 0.5}]})");
  facts.fleet = json::parse(R"({"peers": [{"role": "env", "rank": 0, "ready": true},
    {"role": "trainer", "rank": 0, "ready": false, "last_error": "refused"}]})");
  facts.rollouts = json::parse(R"({"rows": [{"id": "g1", "reward": 0.75, "events": 8,
    "text": "a\u001b[2Jb\nc\u009bd"}]})");
  facts.warnings = {"12:00:00 env: slow"};
  facts.page = "http://127.0.0.1:1/";
  return facts;
}

TEST(WatchViewTest, TheLinesSayWhatTheAnswersSay) {
  const std::vector<std::string> lines = WatchLines(Facts(), 200);
  EXPECT_EQ(lines[0], "r   rl   rl 3/9   elapsed 1:02:03   left -");
  EXPECT_THAT(lines, Contains("reward          1.000  ▁▅█"));
  EXPECT_THAT(lines, Contains("mismatch      1.0e-04  ▁▅█"));  // by its logarithm
  EXPECT_THAT(lines, Contains("held-out    first 0.250"));
  EXPECT_THAT(lines, Contains("weights     v7"));
  EXPECT_THAT(lines, Contains("fleet       env-0 ready   trainer-0 AWAY (refused)"));
  EXPECT_THAT(lines, Contains("warning     12:00:00 env: slow"));
  EXPECT_THAT(lines, Contains("page        http://127.0.0.1:1/"));
}

TEST(WatchViewTest, WeightsThatNobodyHasPublishedHaveNoVersion) {
  WatchFacts facts = Facts();
  facts.progress["policy_version"] = -1;
  EXPECT_THAT(WatchLines(facts, 200), Contains("weights     -"));
}

TEST(WatchViewTest, WhatARolloutSaysMovesNoCursor) {
  const std::vector<std::string> lines = WatchLines(Facts(), 200);
  EXPECT_THAT(lines, Contains("rollouts    0.750  g1  8 events  a [2Jb c d"));
}

TEST(WatchViewTest, LinesAreCutByCharactersNotByBytes) {
  for (int columns = 1; columns < 60; ++columns) {
    for (const std::string& line : WatchLines(Facts(), columns)) {
      int characters = 0;
      for (const char c : line) characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
      EXPECT_LE(characters, columns) << line;
      EXPECT_FALSE(json(line).dump(-1, ' ', false, json::error_handler_t::ignore).empty());
      EXPECT_NO_THROW(json(line).dump());  // no character is cut in two
    }
  }
}

TEST(WatchViewTest, AnswersOfAnotherShapeAreShownAsNothing) {
  WatchFacts facts;
  facts.progress = json::parse(R"({"run": 3, "step": "x", "total_steps": [], "phase": null})");
  facts.curves = json::parse(R"({"steps": {"a": 1}, "heldout": [1, {"greedy": false}]})");
  facts.fleet = json::parse(R"({"peers": ["x", {}]})");
  facts.rollouts = json::parse(R"({"rows": [null]})");
  EXPECT_THAT(WatchLines(facts, 100).front(), StartsWith("-   -   -"));
  EXPECT_FALSE(WatchLines({}, 100).empty());
}

TEST(WatchViewTest, ALongCurveIsAveragedIntoItsColumns) {
  std::vector<double> values;
  for (int i = 0; i < 800; ++i) values.push_back(i);
  EXPECT_EQ(Sparkline(values, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(Sparkline({1, 1}, 8), "▁▁");
  EXPECT_EQ(Sparkline({}, 8), "");
}

}  // namespace
}  // namespace palimpsest::tools
