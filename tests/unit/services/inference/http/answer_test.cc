#include "services/inference/http/answer.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>

#include "common/tokenizer/byte_tokenizer.h"
#include "services/inference/http/logprobs.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

constexpr char kEuro[] = "\xe2\x82\xac";  // three tokens of the byte tokenizer

std::shared_ptr<const Tokenizer> Bytes() {
  return *Tokenizer::FromJson(*ByteTokenizerJson(std::vector<std::string>{"<|end|>"}));
}

Inbox::Item Item(const std::string& text, size_t prompt = 0) {
  auto update = std::make_shared<v1::GenerateResponse>();
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, update.get())) << text;
  return {prompt, update};
}

Ask Asked(const std::string& body, bool chat) {
  const auto ask = chat ? ParseChat(body, 1) : ParseCompletion(body, 1);
  EXPECT_TRUE(ask.ok()) << ask.status();
  return *ask;
}

constexpr char kFinished[] = R"(finished {
  sample: 0 text: "hi" rollout {
    tokens: 1 tokens: 104 tokens: 105 prompt_tokens: 1 finish_reason: FINISH_REASON_STOP
    origins: TOKEN_ORIGIN_PROMPT origins: TOKEN_ORIGIN_SAMPLED origins: TOKEN_ORIGIN_SAMPLED
    spans { begin: 1 end: 2 policy_version: 6 } spans { begin: 2 end: 3 policy_version: 7 }
    events { at: 2 window { begin: 0 end: 1 } reference { begin: 1 end: 2 } digest: "d"
             method: COMPACTION_METHOD_EVICT }
  }
})";

TEST(AnswerTest, AWholeCompletionHasTextReasonAndUsage) {
  const Ask ask = Asked(R"({"prompt": "a"})", false);
  Answer answer({"cmpl-1", 5, "m"}, ask, Bytes());
  ASSERT_TRUE(answer.Hear(Item("accepted { prompt_ids: 97 }")).ok());
  ASSERT_TRUE(answer.Hear(Item(kFinished)).ok());
  EXPECT_EQ(answer.Whole(),
            json::parse(R"({"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m",
      "choices": [{"index": 0, "text": "hi", "logprobs": null, "finish_reason": "stop"}],
      "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}})"));
}

TEST(AnswerTest, CompactionIsToldWhenItWasAskedFor) {
  const Ask ask = Asked(R"({"prompt": "a", "context": {"kind": "kv_budget"}})", false);
  Answer answer({}, ask, Bytes());
  ASSERT_TRUE(answer.Hear(Item(kFinished)).ok());
  EXPECT_EQ(answer.Whole()["choices"][0]["palimpsest"],
            json::parse(R"({"policy_version": 7, "events": [
      {"at": 2, "window": [0, 1], "reference": [1, 2], "method": "evict", "digest": "d"}]})"));
}

TEST(AnswerTest, AChatStreamBeginsWithTheRoleAndEndsWithTheReason) {
  const Ask ask = Asked(
      R"({"messages": [{"role": "user", "content": "a"}], "stream": true, "stream_options": {"include_usage": true}})",
      true);
  Answer answer({"c", 5, "m"}, ask, Bytes());
  const auto first = answer.Hear(Item("accepted { prompt_ids: 97 }"));
  ASSERT_EQ(first->size(), 1u);
  EXPECT_EQ(
      first->front(),
      json::parse(R"({"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m",
      "usage": null, "choices": [{"index": 0, "logprobs": null, "finish_reason": null,
                                  "delta": {"role": "assistant", "content": ""}}]})"));
  const auto second = answer.Hear(Item("tokens { ids: 104 logprobs: -1 text: \"h\" }"));
  EXPECT_EQ(second->front()["choices"][0]["delta"], json::parse(R"({"content": "h"})"));
  EXPECT_TRUE(answer.Hear(Item("tokens { ids: 226 logprobs: -1 }"))->empty());  // half a character
  const auto last = answer.Hear(Item(kFinished));
  EXPECT_EQ(last->front()["choices"][0],
            json::parse(R"({"index": 0, "logprobs": null, "finish_reason": "stop", "delta": {}})"));
  EXPECT_EQ(answer.UsageChunk()["choices"], json::array());
  EXPECT_EQ(answer.UsageChunk()["usage"]["total_tokens"], 3);
}

TEST(AnswerTest, EchoPutsThePromptBeforeEachChoice) {
  const Ask ask = Asked(R"({"prompt": "ab", "echo": true, "n": 2})", false);
  Answer answer({}, ask, Bytes());
  ASSERT_TRUE(answer.Hear(Item("accepted { prompt_ids: 97 prompt_ids: 98 }")).ok());
  ASSERT_TRUE(answer.Hear(Item(kFinished)).ok());
  EXPECT_EQ(answer.Whole()["choices"][0]["text"], "abhi");
  EXPECT_EQ(answer.Whole()["choices"][1]["text"], "ab");
}

TEST(AnswerTest, ASampleThatFailedFailsTheAnswer) {
  const Ask ask = Asked(R"({"prompt": "a"})", false);
  Answer answer({}, ask, Bytes());
  const auto status = answer.Hear(Item("error { code: 4 message: \"late\" }")).status();
  EXPECT_EQ(status, absl::DeadlineExceededError("late"));
}

TEST(AnswerTest, LogprobsOfACompletionCountCharactersAndNameBytesThatAreNoText) {
  const Ask ask = Asked(R"({"prompt": "a", "logprobs": 1})", false);
  Answer answer({}, ask, Bytes());
  // h, the three bytes of the euro sign, i; the likeliest token is not always the drawn one.
  ASSERT_TRUE(
      answer
          .Hear(Item(
              R"(tokens { ids: 104 logprobs: -1 text: "h" top_logprobs { ids: 65 logprobs: -0.5 } })"))
          .ok());
  ASSERT_TRUE(answer.Hear(Item("tokens { ids: 226 ids: 130 logprobs: -2 logprobs: -3 }")).ok());
  ASSERT_TRUE(
      answer
          .Hear(Item(std::string("tokens { ids: 172 ids: 105 logprobs: -4 logprobs: -5 text: \"") +
                     kEuro + "i\" }"))
          .ok());
  ASSERT_TRUE(answer.Hear(Item(kFinished)).ok());
  const json choice = answer.Whole()["choices"][0];
  EXPECT_EQ(choice["text"], std::string("h") + kEuro + "i");
  const json& said = choice["logprobs"];
  EXPECT_EQ(said["tokens"], json({"h", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "i"}));
  EXPECT_EQ(said["text_offset"], json({0, 1, 2, 2, 2}));
  EXPECT_EQ(said["token_logprobs"], json({-1.0, -2.0, -3.0, -4.0, -5.0}));
  EXPECT_EQ(said["top_logprobs"][0], json({{"h", -1.0}, {"A", -0.5}}));
}

TEST(AnswerTest, LogprobsOfAChatHaveTheBytesOfEachToken) {
  const auto chunk =
      Item(R"(tokens { ids: 104 ids: 226 ids: 999 logprobs: -1 logprobs: -2 logprobs: -3
                                      top_logprobs { ids: 65 logprobs: -0.5 } top_logprobs {} top_logprobs {} })");
  const auto tokenizer = Bytes();
  const json said = ChatLogprobs(chunk.update->tokens(), tokenizer.get());
  EXPECT_EQ(said["content"], json::parse(R"([
      {"token": "h", "logprob": -1, "bytes": [104], "top_logprobs": [{"token": "A", "logprob": -0.5, "bytes": [65]}]},
      {"token": "bytes:\\xe2", "logprob": -2, "bytes": [226], "top_logprobs": []},
      {"token": "token_id:999", "logprob": -3, "bytes": null, "top_logprobs": []}])"));
}

}  // namespace
}  // namespace palimpsest::inference
