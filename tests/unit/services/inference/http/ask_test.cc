#include "services/inference/http/ask.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>

namespace palimpsest::inference {
namespace {

using ::testing::StartsWith;

v1::GenerateRequest Request(const std::string& text) {
  v1::GenerateRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

std::string Says(const v1::GenerateRequest& request) { return request.ShortDebugString(); }

std::string Refusal(const absl::StatusOr<Ask>& ask) {
  EXPECT_TRUE(absl::IsInvalidArgument(ask.status())) << ask.status();
  return std::string(ask.status().message());
}
std::string Completion(const std::string& fields) {
  return Refusal(ParseCompletion(R"({"prompt": "a", )" + fields + "}", 0));
}
std::string Chat(const std::string& fields) {
  return Refusal(ParseChat(R"({"messages": [], )" + fields + "}", 0));
}
std::string Message(const std::string& message) {
  return Refusal(ParseChat(R"({"messages": [)" + message + "]}", 0));
}
std::string Context(const std::string& fields) {
  return Completion(R"("context": {)" + fields + "}");
}

TEST(AskTest, EveryFieldOfACompletionReachesTheRequest) {
  const auto ask = ParseCompletion(R"({
      "model": "m", "prompt": "hi", "n": 2, "best_of": 2, "max_tokens": 9, "seed": 18446744073709551615,
      "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5,
      "presence_penalty": -1, "frequency_penalty": 2, "logit_bias": {"3": -100, "4": 0.5},
      "stop": ["x", "y"], "stop_token_ids": [5, 6], "min_tokens": 2, "ignore_eos": true, "logprobs": 3,
      "user": "me", "stream": true, "stream_options": {"include_usage": true}})",
                                   1);
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_EQ(ask->model, "m");
  EXPECT_EQ(ask->n, 2);
  EXPECT_TRUE(ask->stream && ask->include_usage && ask->logprobs);
  EXPECT_FALSE(ask->chat || ask->echo || ask->compacts);
  ASSERT_EQ(ask->prompts.size(), 1u);
  EXPECT_EQ(Says(ask->prompts[0]), Says(Request(R"(
      prompt_text: "hi" n: 2 client: "me" stream_tokens: true
      sampling {
        temperature: 0.5 top_p: 0.25 top_k: 7 min_p: 0.125 repetition_penalty: 1.5 presence_penalty: -1
        frequency_penalty: 2 logit_bias { key: 3 value: -100 } logit_bias { key: 4 value: 0.5 }
        stop_strings: "x" stop_strings: "y" stop_ids: 5 stop_ids: 6 min_tokens: 2 ignore_eos: true
        max_tokens: 9 top_logprobs: 3 seed: 18446744073709551615
      })")));
}

TEST(AskTest, WhatIsAbsentOrNullLeavesTheDefaults) {
  const auto bare = ParseCompletion(R"({"prompt": "hi"})", 77);
  ASSERT_TRUE(bare.ok()) << bare.status();
  // 16 tokens as OpenAI has it; a seed of its own, or all answers would be alike.
  EXPECT_EQ(Says(bare->prompts[0]),
            Says(Request(R"(prompt_text: "hi" n: 1 sampling { max_tokens: 16 seed: 77 })")));
  const auto nulls = ParseCompletion(
      R"({"prompt": "hi", "model": null, "stop": null, "logit_bias": null, "n": null,
          "temperature": null, "stream": null, "stream_options": null, "best_of": null,
          "suffix": null, "logprobs": null, "echo": null, "context": null, "user": null})",
      77);
  ASSERT_TRUE(nulls.ok()) << nulls.status();
  EXPECT_EQ(Says(nulls->prompts[0]), Says(bare->prompts[0]));
  EXPECT_FALSE(nulls->logprobs);
}

TEST(AskTest, PromptsComeInFourKindsAndChoicesAreNumberedOverThem) {
  const auto sent = [](const std::string& prompt) {
    const auto ask = ParseCompletion(R"({"n": 3, "seed": 1, "prompt": )" + prompt + "}", 0);
    EXPECT_TRUE(ask.ok()) << ask.status();
    std::string all;
    for (v1::GenerateRequest request : ask->prompts) {
      request.clear_sampling();
      all += Says(request) + "; ";
    }
    return all;
  };
  EXPECT_EQ(sent(R"("a")"), "prompt_text: \"a\" n: 3; ");
  EXPECT_EQ(sent(R"(["a", "b"])"),
            "prompt_text: \"a\" n: 3; prompt_text: \"b\" n: 3 first_sample: 3; ");
  EXPECT_EQ(sent("[1, 2]"), "prompt_ids { ids: 1 ids: 2 } n: 3; ");
  EXPECT_EQ(sent("[[1], [2, 3]]"),
            "prompt_ids { ids: 1 } n: 3; prompt_ids { ids: 2 ids: 3 } n: 3 first_sample: 3; ");
}

TEST(AskTest, AConversationReachesTheRequest) {
  const auto ask = ParseChat(R"({
      "messages": [{"role": "system", "content": "Be kind."},
                   {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                   {"role": "assistant", "content": "c", "reasoning_content": "d", "refusal": null, "tool_calls": []}],
      "chat_template_kwargs": {"enable_thinking": false}, "add_generation_prompt": false, "chat_template": "t",
      "max_completion_tokens": 5, "logprobs": true, "top_logprobs": 2, "seed": 1, "tools": null,
      "response_format": {"type": "text"}})",
                             0);
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_TRUE(ask->chat && ask->logprobs);
  EXPECT_EQ(Says(ask->prompts[0]), Says(Request(R"(
      prompt_chat {
        messages { role: "system" content: "Be kind." }
        messages { role: "user" content: "a\nb" }
        messages { role: "assistant" content: "c" reasoning_content: "d" }
        enable_thinking: false template: "t" add_generation_prompt: false
      }
      n: 1 stream_tokens: true sampling { max_tokens: 5 top_logprobs: 2 seed: 1 })")));
}

TEST(AskTest, AChatMayRunToTheEndAndTakesTheOlderNameOfItsLimit) {
  const std::string messages = R"("messages": [{"role": "user", "content": "a"}])";
  EXPECT_FALSE(ParseChat("{" + messages + "}", 0)->prompts[0].sampling().has_max_tokens());
  const auto ask = ParseChat("{" + messages + R"(, "max_tokens": 4})", 0);
  EXPECT_EQ(ask->prompts[0].sampling().max_tokens(), 4);
  EXPECT_THAT(Chat(R"("max_tokens": 4, "max_completion_tokens": 5)"),
              StartsWith("max_completion_tokens: 5, but max_tokens=4"));
}

TEST(AskTest, AContextPolicyIsReadAsTheCommandWritesIt) {
  const auto ask = ParseCompletion(R"({"prompt": "a", "seed": 1, "context": {
      "kind": "kv_budget", "budget": 56, "window": 28, "keep_ratio": 0.5, "method": "evict", "chooser": "recent",
      "reference_tokens": 48, "after_window": true, "protect": 4, "stack": true, "mu": 0.25, "lambda": 0.5,
      "log_lower": -3, "log_upper": 3, "reference_kind": "queries", "seed": 9, "holdout_every": 2, "early": 0.25}})",
                                   0);
  ASSERT_TRUE(ask.ok()) << ask.status();
  EXPECT_TRUE(ask->compacts);
  EXPECT_EQ(Says(ask->prompts[0]), Says(Request(R"(
      prompt_text: "a" n: 1 sampling { max_tokens: 16 seed: 1 }
      context {
        kv_budget { budget: 56 window: 28 keep_ratio: 0.5 early: 0.25 } method: COMPACTION_METHOD_EVICT
        parameters { mu: 0.25 lambda: 0.5 log_lower: -3 log_upper: 3 chooser: COMPACTION_CHOOSER_RECENT
                     reference_kind: REFERENCE_KIND_QUERIES seed: 9 holdout_every: 2 }
        reference_tokens: 48 after_window: true protect: 4 stack: true
      })")));
  const auto none = ParseCompletion(R"({"prompt": "a", "context": {"kind": "none"}})", 0);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->compacts);
}

TEST(AskTest, AnUnknownFieldIsRefusedWhereverItStands) {
  EXPECT_EQ(Completion(R"("best_off": 1)"), "best_off: this server knows no such field");
  EXPECT_EQ(Completion(R"("best_off": null)"), "best_off: this server knows no such field");
  EXPECT_EQ(Completion(R"("stream": true, "stream_options": {"x": 1})"),
            "stream_options.x: this server knows no such field");
  EXPECT_EQ(Context(R"("kind": "kv_budget", "every": 3)"),
            "context.every: this server knows no such field");
  EXPECT_EQ(Context(R"("kind": "none", "budget": 3)"),
            "context.budget: this server knows no such field");
  EXPECT_EQ(Chat(R"("prompt": "a")"), "prompt: this server knows no such field");
  EXPECT_EQ(Chat(R"("chat_template_kwargs": {"x": 1})"),
            "chat_template_kwargs.x: this server knows no such field");
  EXPECT_EQ(Message(R"({"role": "user", "content": "a", "x": 1})"),
            "messages[0].x: this server knows no such field");
  EXPECT_EQ(Message(R"({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]})"),
            "messages[0].content[0].x: this server knows no such field");
}

TEST(AskTest, WrongValuesAreRefusedWithFieldAndValue) {
  EXPECT_EQ(Refusal(ParseCompletion("{", 0)), "body: is not JSON");
  EXPECT_EQ(Refusal(ParseCompletion("[1]", 0)), "body=[..] is not an object");
  EXPECT_EQ(Refusal(ParseCompletion("{}", 0)), "prompt: is missing");
  EXPECT_THAT(Refusal(ParseCompletion(R"({"prompt": []})", 0)),
              StartsWith("prompt=[] is not a text"));
  EXPECT_THAT(Refusal(ParseCompletion(R"({"prompt": ["a", 1]})", 0)),
              StartsWith("prompt=[..] is not"));
  EXPECT_THAT(Refusal(ParseCompletion(R"({"prompt": [-1]})", 0)), StartsWith("prompt=[..] is not"));
  EXPECT_EQ(Completion(R"("temperature": "hot")"), "temperature=\"hot\" is not a number");
  EXPECT_EQ(Completion(R"("stream": 1)"), "stream=1 is not true or false");
  EXPECT_EQ(Completion(R"("model": 1)"), "model=1 is not a string");
  EXPECT_EQ(Completion(R"("n": 0)"), "n: 0 is not at least 1");
  EXPECT_THAT(Completion(R"("n": 1.5)"), StartsWith("n=1.5 is not a whole number"));
  EXPECT_THAT(Completion(R"("top_k": 4294967296)"), StartsWith("top_k=4294967296 is not"));
  EXPECT_THAT(Completion(R"("seed": -1)"), StartsWith("seed=-1 is not a whole number"));
  EXPECT_THAT(Completion(R"("n": 18446744073709551615)"), StartsWith("n=18446744073709551615 is"));
  EXPECT_EQ(Completion(R"("stop": 1)"), "stop=1 is not a string or a list of strings");
  EXPECT_EQ(Completion(R"("stop": ["a", 1])"), "stop[1]=1 is not a string");
  EXPECT_EQ(Completion(R"("stop_token_ids": [-1])"), "stop_token_ids[0]=-1 is not a token's id");
  EXPECT_EQ(Completion(R"("logit_bias": {"x": 1})"), "logit_bias: \"x\" is not a token's id");
  EXPECT_EQ(Completion(R"("logit_bias": {"7": "x"})"), "logit_bias.7=\"x\" is not a number");
  EXPECT_EQ(Context(R"("kind": "turns")"),
            "context.kind: \"turns\" is none of none, kv_budget, segments");
  EXPECT_THAT(Context(R"("kind": "segments", "method": "guess")"), StartsWith("context.method: "));
  EXPECT_THAT(Context(R"("kind": "segments", "protect": "all")"),
              StartsWith("context.protect=\"all\""));
  EXPECT_EQ(Completion(R"("context": "kv_budget")"), "context=\"kv_budget\" is not an object");
}

TEST(AskTest, WhatIsDeepOrManyIsRefusedAndHarmless) {
  const std::string deep = std::string(1 << 20, '[') + std::string(1 << 20, ']');
  EXPECT_EQ(Refusal(ParseCompletion(deep, 0)), "body=[..] is not an object");
  EXPECT_THAT(Refusal(ParseCompletion(R"({"prompt": )" + deep + "}", 0)),
              StartsWith("prompt=[..]"));
  std::string many = "[1]";
  for (int i = 0; i < 1024; ++i) many += ",[1]";
  EXPECT_THAT(Refusal(ParseCompletion(R"({"prompt": [)" + many + "]}", 0)),
              StartsWith("prompt: 1025"));
  EXPECT_TRUE(
      ParseCompletion(R"({"prompt": "a", "n": 2147483647})", 0).ok());  // the server's limit
}

TEST(AskTest, WhatIsNotServedIsSaidAndNotPassedOver) {
  EXPECT_THAT(Completion(R"("best_of": 2)"), StartsWith("best_of: 2 differs from n=1"));
  EXPECT_THAT(Completion(R"("suffix": "b")"), StartsWith("suffix: not supported"));
  EXPECT_THAT(Completion(R"("echo": true, "logprobs": 1)"), StartsWith("echo: not supported"));
  EXPECT_THAT(Completion(R"("stream_options": {})"), StartsWith("stream_options: only with"));
  EXPECT_THAT(Chat(R"("top_logprobs": 2)"), StartsWith("top_logprobs: only with"));
  EXPECT_THAT(Chat(R"("tools": [{"type": "function"}])"), StartsWith("tools: not supported"));
  EXPECT_THAT(Chat(R"("tool_choice": "auto")"), StartsWith("tool_choice: not supported"));
  EXPECT_THAT(Chat(R"("response_format": {"type": "json_object"})"),
              StartsWith("response_format.type: \"json_object\" is not supported"));
  EXPECT_THAT(Message(R"({"role": "user", "content": [{"type": "image_url", "text": ""}]})"),
              StartsWith("messages[0].content[0].type: \"image_url\""));
  EXPECT_THAT(Message(R"({"role": "tool", "content": "a", "tool_call_id": "b"})"),
              StartsWith("messages[0].tool_call_id: not supported"));
  EXPECT_EQ(Message(R"({"role": "user", "content": null})"), "messages[0].content: is missing");
}

}  // namespace
}  // namespace palimpsest::inference
