#include "tools/event_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace palimpsest::tools {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

context::Event AnEvent() {
  context::Event event{.at = 20, .window = {4, 12}, .reference = {10, 20}};
  event.parameters.seed = 0xffffffffffffffff;
  event.parameters.mu = 0.1;
  event.kept = context::KeptPositions({2, 1});
  event.kept.AddHead(std::vector<int32_t>{4, 11});
  event.kept.AddHead(std::vector<int32_t>{});
  event.digest = context::Digest::FromHex("00112233445566778899aabbccddeeff").value();
  event.quality = {.mass_error = 1e-3, .output_error = 2e-3, .kkt_residual = 1e-17};
  return event;
}

TEST(EventJsonTest, HasTheShapeOfTheContract) {
  const json out = EventJson(AnEvent());
  EXPECT_EQ(out["at"], 20);
  EXPECT_EQ(out["window"], json({4, 12}));
  EXPECT_EQ(out["method"], "attention_matching");
  EXPECT_EQ(out["reference"], json({10, 20}));
  EXPECT_EQ(out["kept"], json::parse("[[[4, 11]], [[]]]"));
  EXPECT_EQ(out["digest"], "00112233445566778899aabbccddeeff");
  EXPECT_EQ(out["parameters"].size(), 8u);
  EXPECT_EQ(out["parameters"]["seed"], 0xffffffffffffffff);
  EXPECT_EQ(out["parameters"]["chooser"], "rms");
  EXPECT_EQ(out["quality"].size(), 3u);
}

TEST(EventJsonTest, ReadsBackWhatItPrinted) {
  const context::Event event = AnEvent();
  const absl::StatusOr<context::Event> read = EventFromJson(EventJson(event), "event");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, event);
}

TEST(EventJsonTest, DigestAndQualityMayBeAbsent) {
  json out = EventJson(AnEvent());
  out.erase("digest");
  out.erase("quality");
  EXPECT_FALSE(EventFromJson(out, "event")->digest.has_value());
  for (const json& missing : {json(""), json(nullptr)}) {
    out["digest"] = missing;
    EXPECT_FALSE(EventFromJson(out, "event")->digest.has_value());
  }
  out["quality"] = json::object();
  EXPECT_EQ(EventFromJson(out, "event")->quality, context::Quality{});
}

TEST(EventJsonTest, WhatListensToNothingHasNoQuality) {
  context::Event event = AnEvent();
  event.method = context::Method::kEvict;
  event.quality = {};
  for (const auto chooser : {context::Chooser::kRecent, context::Chooser::kRandom}) {
    event.parameters.chooser = chooser;
    EXPECT_TRUE(EventJson(event)["quality"].is_null());
    EXPECT_EQ(*EventFromJson(EventJson(event), "event"), event);
  }
  event.parameters.chooser = context::Chooser::kAttention;
  EXPECT_EQ(EventJson(event)["quality"].size(), 3u);
}

TEST(EventJsonTest, RefusalsNameTheField) {
  const struct {
    const char* pointer;
    json value;
    const char* message;
  } cases[] = {
      {"/at", -1, "event.at"},
      {"/at", 1.5, "event.at"},
      {"/window", json({1}), "event.window"},
      {"/method", "shrink", "event.method"},
      {"/kept", json({1}), "event.kept"},
      {"/kept", json::parse("[[[1]], [[1], [2]]]"), "event.kept[1]"},
      {"/kept/1/0", json({"a"}), "event.kept[1][0][0]"},
      {"/parameters/mu", "x", "event.parameters.mu"},
      {"/parameters/tau", 1, "tau"},
      {"/digest", "xyz", "event.digest"},
      {"/seconds", 1, "seconds"},
  };
  for (const auto& broken : cases) {
    json out = EventJson(AnEvent());
    out[json::json_pointer(broken.pointer)] = broken.value;
    EXPECT_THAT(EventFromJson(out, "event").status().message(), HasSubstr(broken.message));
  }
  for (const char* name : {"at", "window", "method", "reference", "kept", "parameters"}) {
    json out = EventJson(AnEvent());
    out.erase(name);
    EXPECT_THAT(EventFromJson(out, "event").status().message(), HasSubstr(name));
  }
}

TEST(GenerationJsonTest, ShowsWhatFollowsThePrompt) {
  rl::Rollout rollout{.tokens = {1, 2, 3, 4}, .prompt_tokens = 2};
  rollout.origins = {rl::Origin::kPrompt, rl::Origin::kPrompt, rl::Origin::kSampled,
                     rl::Origin::kInjected};
  rollout.logprobs = {0, 0, -0.5F, 0};
  rollout.finish_reason = rl::FinishReason::kLength;
  const json out = GenerationJson(rollout);
  EXPECT_EQ(out, json::parse(R"({"prompt_ids": [1, 2], "ids": [3, 4], "logprobs": [-0.5, 0.0],
    "origins": ["sampled", "injected"], "finish_reason": "length", "events": []})"));
}

TEST(PolicyVersionsTest, NamesEachOnceInTheOrderOfTheTokens) {
  rl::Rollout rollout;
  EXPECT_TRUE(PolicyVersions(rollout).empty());
  rollout.spans = {{2, 3, PolicyVersion(7), 0}, {3, 5, PolicyVersion(9), 0}};
  rollout.spans.push_back({5, 6, PolicyVersion(9), 1});  // rebuilt under the same weights
  EXPECT_THAT(PolicyVersions(rollout), ElementsAre(7, 9));
}

TEST(ParseSequenceTest, PutsThePromptOfAGenerationBeforeItsIds) {
  EXPECT_THAT(*ParseSequence(R"({"ids": [3], "prompt_ids": [1, 2], "events": []})", "f"),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(*ParseSequence(R"({"ids": [3, 4]})", "f"), ElementsAre(3, 4));
  EXPECT_THAT(ParseSequence(R"({"prompt_ids": [1]})", "f").status().message(),
              HasSubstr("\"ids\""));
  EXPECT_THAT(ParseSequence(R"({"prompt_ids": 1, "ids": []})", "f").status().message(),
              HasSubstr("f: prompt_ids"));
}

TEST(ParseTest, WhatIsNotJsonIsRefusedByLineAndColumn) {
  EXPECT_THAT(ParseIds("{\"ids\":\n [1,, 2]}", "f").status().message(),
              HasSubstr("f: is not JSON: parse error at line 2, column 5"));
  EXPECT_THAT(ParseIds("", "f").status().message(), HasSubstr("line 1, column 1"));
  EXPECT_THAT(ParseText("{\"text\": \"\xff\"}", "f").status().message(), HasSubstr("UTF-8"));
}

TEST(ParseTextTest, TakesTheTextAndPassesOtherKeysOver) {
  EXPECT_EQ(*ParseText(R"({"id": 7, "text": "a"})", "f"), "a");
  EXPECT_THAT(ParseText(R"({"texts": "a"})", "f").status().message(), HasSubstr("\"text\""));
}

TEST(ParseIdsTest, TakesIdsAndPassesOtherKeysOver) {
  EXPECT_THAT(*ParseIds("{\"ids\": [0, 5]}", "f"), ElementsAre(0, 5));
  EXPECT_THAT(*ParseIds("{\"ids\": [1], \"prompt_ids\": [2], \"x\": 1}", "f"), ElementsAre(1));
  EXPECT_TRUE(ParseIds("{\"ids\": []}", "f")->empty());
  for (const char* text : {"", "[1]", "{\"id\": [1]}", "{\"ids\": [2147483648]}", "{\"ids\": [-1]}",
                           "{\"ids\": [true]}"}) {
    EXPECT_THAT(ParseIds(text, "stdin:3").status().message(), HasSubstr("stdin:3")) << text;
  }
}

TEST(ParseIdsTest, RefusesJsonThatIsNestedDeeperThanAnyStack) {
  const std::string open(200'000, '['), close(200'000, ']');
  EXPECT_THAT(ParseIds("{\"ids\": " + open + close + "}", "f").status().message(),
              HasSubstr("f: ids[0]"));
  EXPECT_THAT(ParseEvents("{\"events\": [{\"at\": " + open + close + "}]}", "f").status().message(),
              HasSubstr("f: events[0].at"));
}

TEST(ParseChatTest, TakesAConversationAndNothingElse) {
  const Chat plain{.messages = {{"user", "a"}}};
  EXPECT_EQ(*ParseChat(R"({"messages": [{"role": "user", "content": "a"}]})", "f"), plain);
  const Chat full{.messages = {{"assistant", "a", ""}},
                  .add_generation_prompt = false,
                  .enable_thinking = false,
                  .date_string = "1 May"};
  EXPECT_EQ(*ParseChat(R"({"messages": [
                {"role": "assistant", "content": "a", "reasoning_content": ""}],
                "add_generation_prompt": false, "enable_thinking": false,
                "date_string": "1 May"})",
                       "f"),
            full);
  const auto said = [](const char* text) {
    return std::string(ParseChat(text, "f").status().message());
  };
  EXPECT_THAT(said(R"({"messages": {}})"), HasSubstr("f: messages"));
  EXPECT_THAT(said(R"({"messages": [{"role": "user"}]})"), HasSubstr("f: messages[0]"));
  EXPECT_THAT(said(R"({"messages": [{"role": "user", "content": []}]})"),
              HasSubstr("f: messages[0].content"));
  EXPECT_THAT(said(R"({"messages": [], "tools": []})"), HasSubstr("\"tools\" is unknown"));
  EXPECT_THAT(said(R"({"messages": [], "enable_thinking": 1})"), HasSubstr("f: enable_thinking"));
}

TEST(ParseEventsTest, TakesAWholeGenerateOutput) {
  json file = {{"ids", {1}}, {"finish_reason", "stop"}, {"events", {EventJson(AnEvent())}}};
  EXPECT_THAT(*ParseEvents(file.dump(), "f"), ElementsAre(AnEvent()));
  file["events"][0]["at"] = "x";
  EXPECT_THAT(ParseEvents(file.dump(), "f").status().message(), HasSubstr("f: events[0].at"));
  EXPECT_FALSE(ParseEvents("{}", "f").ok());
}

}  // namespace
}  // namespace palimpsest::tools
