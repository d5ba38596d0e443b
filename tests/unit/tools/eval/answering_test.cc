#include "tools/eval/answering.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/tools/eval/fake_peers.h"

namespace palimpsest::tools::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class AnsweringTest : public ::testing::Test {
 protected:
  absl::StatusOr<Answer> Ask(const std::string& policy, int32_t sample = 0, int attempt = 1) {
    if (asker_ == nullptr) asker_ = MakeAsker(plan_, model_, peers_, "id");
    const Policy parsed = *ParsePolicy(policy);
    return asker_->Ask({"task", "heldout", 1, 0, parsed.name, sample}, parsed, attempt);
  }

  Plan plan_{.tasks = {{"task", 1}}, .samples = 4, .temperature = 0.5};
  ModelFacts model_{.max_position = 1000, .stop_ids = {'.'}};
  FakePeers peers_;
  std::unique_ptr<Asker> asker_;
};

TEST_F(AnsweringTest, OneResponseIsWrittenAndJudged) {
  peers_.question.tags = {"far"};
  peers_.question.stops = {"$"};
  const Answer answer = *Ask("full");
  EXPECT_EQ(answer.text, "yes");
  EXPECT_EQ(answer.finish, "stop");
  EXPECT_EQ(answer.reward, 0.5);
  EXPECT_EQ(answer.parts, (std::map<std::string, double>{{"strict", 0.25}}));
  EXPECT_EQ(answer.reason, "half");
  EXPECT_THAT(answer.tags, ElementsAre("far"));
  EXPECT_EQ(answer.responses, 1);
  EXPECT_EQ(answer.prompt_tokens, 9);
  EXPECT_EQ(answer.tokens, 4);
  EXPECT_EQ(answer.peak_slots, 12);
  EXPECT_DOUBLE_EQ(answer.mean_slots, (9 + 12) / 2.);
  EXPECT_EQ(answer.seconds, 0.25);
  EXPECT_THAT(peers_.scored, ElementsAre(FakePeers::Scored{"e", "yes", false}));
  const GenerateCall& call = peers_.generated.front();
  EXPECT_EQ(FakePeers::Text(call.prompt), "question:");
  EXPECT_EQ(call.sampling.temperature, 0.5);
  EXPECT_EQ(call.sampling.max_tokens, 8);
  EXPECT_THAT(call.sampling.stop_strings, ElementsAre("$"));
}

TEST_F(AnsweringTest, DrawsAreThoseOfPromptAndSampleWhateverThePolicyAndTheTry) {
  for (const int32_t sample : {0, 1}) {
    ASSERT_TRUE(Ask("full", sample).ok());
    ASSERT_TRUE(Ask("am:kind=kv_budget,budget=40,window=8", sample, 2).ok());
  }
  const auto& calls = peers_.generated;
  for (const GenerateCall& call : calls) {
    EXPECT_EQ(call.sampling.seed, calls[0].sampling.seed);
    EXPECT_EQ(call.sample, &call < &calls[2] ? 0 : 1);
  }
  EXPECT_NE(calls[0].request_id, calls[1].request_id);
  EXPECT_EQ(peers_.resets, 1);
}

TEST_F(AnsweringTest, ShortEndsAtItsLengthAndWithoutRoomNothingIsWritten) {
  const Answer cut = *Ask("short:kind=short,budget=11");
  EXPECT_EQ(cut.text, "ye");
  EXPECT_EQ(cut.finish, "length");
  const Answer none = *Ask("none:kind=short,budget=9");
  EXPECT_EQ(none.responses + none.prompt_tokens + none.tokens, 0);
  EXPECT_THAT(peers_.scored,
              ElementsAre(FakePeers::Scored{"e", "ye", true}, FakePeers::Scored{"e", "", true}));
  EXPECT_EQ(peers_.generated.size(), 1);
}

TEST_F(AnsweringTest, APromptBeyondTheModelsPositionsHasNoAnswerAndIsJudgedSo) {
  model_.max_position = 9;
  const Answer none = *Ask("full");
  EXPECT_EQ(none.responses, 0);
  EXPECT_EQ(none.finish, "length");
  EXPECT_THAT(peers_.scored, ElementsAre(FakePeers::Scored{"e", "", true}));
  model_.max_position = 40;
  peers_.says = {"one$"};
  const Answer half = *Ask("rsa:population=2,aggregate=2,rounds=2");
  EXPECT_EQ(half.responses, 2);  // and no room to read them
  EXPECT_EQ(half.text, "");
  EXPECT_TRUE(peers_.scored.back().cut);
}

TEST_F(AnsweringTest, WhoSaysHowLongAnAnswerMayBe) {
  peers_.question.max_response = 0;
  EXPECT_THAT(Ask("full").status().message(), HasSubstr("--max-tokens"));
  plan_.max_tokens = 3;
  EXPECT_EQ(Ask("full")->text, "yes");
  EXPECT_EQ(peers_.generated.front().sampling.max_tokens, 3);
}

constexpr char kAggregated[] = "rsa:population=3,aggregate=2,rounds=2";

TEST_F(AnsweringTest, AnAttemptReadsOthersAndTheLastOneIsTheAnswer) {
  peers_.says = {"one$", "two$", "both$"};
  const Answer answer = *Ask(kAggregated);
  EXPECT_EQ(answer.text, "both");
  EXPECT_EQ(answer.responses, 3);
  ASSERT_EQ(peers_.generated.size(), 3);
  const std::string last = FakePeers::Text(peers_.generated[2].prompt);
  EXPECT_EQ(last, WithAttempts("question:", {"one", "two"}));
  EXPECT_EQ(answer.prompt_tokens, 9 + 9 + static_cast<int32_t>(last.size()));
  EXPECT_EQ(answer.tokens, 4 + 4 + 5);
  EXPECT_EQ(answer.peak_slots, static_cast<int32_t>(last.size()) + 4);
  EXPECT_EQ(answer.seconds, 0.75);
  EXPECT_THAT(peers_.scored, ElementsAre(FakePeers::Scored{"e", "both", false}));
}

TEST_F(AnsweringTest, FirstAttemptsDrawWhatSamplesOfTheBareQuestionDraw) {
  ASSERT_TRUE(Ask(kAggregated, 2).ok());
  ASSERT_TRUE(Ask("full").ok());
  const auto& calls = peers_.generated;
  std::set<int32_t> samples;
  std::set<std::string> names;
  for (const GenerateCall& call : calls) names.insert(call.request_id);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(calls[i].sampling.seed, calls[3].sampling.seed);
    EXPECT_GE(calls[i].sample, 2 * 3);
    EXPECT_LT(calls[i].sample, 3 * 3);
    samples.insert(calls[i].sample);
  }
  EXPECT_EQ(samples.size(), 2);
  EXPECT_NE(calls[2].sampling.seed, calls[3].sampling.seed);
  EXPECT_EQ(names.size(), 4);
}

TEST_F(AnsweringTest, WhatIsReadMayBeCompactedButNotTheQuestion) {
  ASSERT_TRUE(Ask(std::string(kAggregated) + ",kind=kv_budget,budget=40,window=8").ok());
  EXPECT_EQ(peers_.generated[0].context.protect, std::nullopt);
  EXPECT_EQ(peers_.generated[2].context.protect, 9);
  ASSERT_TRUE(Ask(std::string(kAggregated) + ",kind=kv_budget,budget=40,window=8,protect=3").ok());
  EXPECT_EQ(peers_.generated.back().context.protect, 3);
}

TEST_F(AnsweringTest, InAConversationAttemptsStandInTheLastMessage) {
  peers_.question.saying = {.chat = {.messages = {{"system", "s"}, {"user", "q"}}}};
  ASSERT_TRUE(Ask(kAggregated).ok());
  EXPECT_EQ(FakePeers::Text(peers_.generated.back().prompt),
            "system:s.user:" + WithAttempts("q", {"yes", "yes"}) + ".assistant:");
  EXPECT_EQ(peers_.generated.back().context.protect,
            static_cast<int32_t>(std::string("system:s.user:q").size()));
}

class EpisodeTest : public AnsweringTest {
 protected:
  EpisodeTest() {
    peers_.question.max_turns = 4;
    peers_.says = {"a$", "bc$", "d$", "e$"};
  }
};

TEST_F(EpisodeTest, IsPlayedTurnByTurnInOneSessionUntilTheEnvironmentEndsIt) {
  peers_.over_after = 3;
  const Answer answer = *Ask("t:kind=turns,n_protect_turns=1");
  EXPECT_THAT(peers_.stepped, ElementsAre("a", "bc", "d"));
  ASSERT_EQ(peers_.created.size(), 1);
  EXPECT_EQ(FakePeers::Text(peers_.created[0].prompt), "question:");
  EXPECT_TRUE(std::holds_alternative<context::Turns>(peers_.created[0].context.trigger));
  std::vector<std::string> injected;
  for (const SessionStep& step : peers_.steps) {
    injected.push_back(FakePeers::Text(step.new_ids));
    EXPECT_EQ(step.sampling.max_tokens, 8);
  }
  EXPECT_THAT(injected, ElementsAre("", "o1;", "o2;"));
  EXPECT_EQ(answer.text, "a$o1;bc$o2;d$");
  EXPECT_EQ(answer.finish, "stop");
  EXPECT_EQ(answer.responses, 3);
  EXPECT_EQ(answer.prompt_tokens, 9);
  EXPECT_EQ(answer.tokens, 13);
  EXPECT_EQ(answer.peak_slots, 9 + 12);
  EXPECT_EQ(answer.seconds, 0.75);
  EXPECT_THAT(peers_.scored, ElementsAre(FakePeers::Scored{"e|a|bc|d", "", false}));
  EXPECT_THAT(peers_.open, IsEmpty());
}

TEST_F(EpisodeTest, EndsAfterItsTurnsAndWhereThereIsNoRoom) {
  const Answer all = *Ask("full");
  EXPECT_EQ(all.responses, 4);
  EXPECT_EQ(all.finish, "length");
  EXPECT_TRUE(peers_.scored.back().cut);
  // 9 of the prompt, 2, 3, and the one token that is left.
  const Answer tight = *Ask("tight:kind=short,budget=15");
  EXPECT_EQ(tight.responses, 2);
  EXPECT_EQ(tight.tokens, 6);
  EXPECT_EQ(peers_.steps.back().sampling.max_tokens, 1);
  const Answer none = *Ask("none:kind=short,budget=9");
  EXPECT_EQ(none.responses + none.prompt_tokens, 0);
  EXPECT_EQ(peers_.created.size(), 2);
  EXPECT_THAT(peers_.open, IsEmpty());
}

TEST_F(EpisodeTest, AConversationIsContinuedByItsTemplate) {
  peers_.question.saying = {.chat = {.messages = {{"user", "q"}}}};
  peers_.over_after = 2;
  ASSERT_TRUE(Ask("full").ok());
  EXPECT_EQ(FakePeers::Text(peers_.steps[1].new_ids), ".user:o1;.assistant:");
  model_.stop_ids = {'!'};
  EXPECT_THAT(Ask("full", 1).status().message(), HasSubstr("closes no message"));
}

TEST_F(EpisodeTest, WhatIsLostLeavesNoSessionBehindAndIsPlayedAgainWithTheSameDraws) {
  peers_.lost_at = 2;
  EXPECT_TRUE(absl::IsUnavailable(Ask("full").status()));
  EXPECT_THAT(peers_.open, IsEmpty());
  EXPECT_THAT(peers_.scored, IsEmpty());
  peers_.stepped.clear();
  ASSERT_TRUE(Ask("full", 0, 2).ok());
  ASSERT_TRUE(Ask("other:kind=turns,n_protect_turns=1").ok());
  ASSERT_TRUE(Ask("full", 1).ok());
  const auto& sessions = peers_.created;
  EXPECT_NE(sessions[0].request_id, sessions[1].request_id);
  EXPECT_EQ(sessions[0].seed, sessions[1].seed);
  EXPECT_EQ(sessions[0].seed, sessions[2].seed);
  EXPECT_NE(sessions[0].seed, sessions[3].seed);
}

}  // namespace
}  // namespace palimpsest::tools::eval
