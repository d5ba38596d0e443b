#include "services/inference/http/errors.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace palimpsest::inference {
namespace {

using nlohmann::json;

TEST(ErrorsTest, RefusalsNameTheFieldsOfTheJson) {
  const auto said = [](const std::string& message, bool chat = false) {
    return std::string(InJsonNames(absl::InvalidArgumentError(message), chat).message());
  };
  EXPECT_EQ(said("sampling.top_p=3 is out"), "top_p=3 is out");
  EXPECT_EQ(said("sampling.stop_strings[0] has"), "stop[0] has");
  EXPECT_EQ(said("sampling.stop_ids[0]=-1"), "stop_token_ids[0]=-1");
  EXPECT_EQ(said("sampling.top_logprobs=101"), "logprobs=101");
  EXPECT_EQ(said("sampling.top_logprobs=101", true), "top_logprobs=101");
  EXPECT_EQ(said("prompt_text: is empty"), "prompt: is empty");
  EXPECT_EQ(said("prompt_ids.ids[1]: 9"), "prompt[1]: 9");
  EXPECT_EQ(said("prompt_chat.messages[1].role=x"), "messages[1].role=x");
  EXPECT_EQ(said("prompt_chat: the model"), "messages: the model");
  EXPECT_EQ(said("prompt_chat.enable_thinking=true"), "chat_template_kwargs.enable_thinking=true");
  EXPECT_EQ(said("context.kv_budget.keep_ratio: 2"), "context.keep_ratio: 2");
  EXPECT_EQ(said("context.parameters.mu=0"), "context.mu=0");
  EXPECT_EQ(said("client: 200 bytes"), "user: 200 bytes");
  EXPECT_EQ(said("n: 9 is outside"), "n: 9 is outside");
}

TEST(ErrorsTest, AnErrorHasOpenAisShape) {
  const json refused =
      json::parse(ErrorBody(absl::InvalidArgumentError("stop[1]=3 is not a string")));
  EXPECT_EQ(refused,
            json::parse(R"({"error": {"message": "stop[1]=3 is not a string", "param": "stop[1]",
      "type": "invalid_request_error", "code": "invalid_argument"}})"));
  const json full = json::parse(ErrorBody(absl::ResourceExhaustedError("full")));
  EXPECT_EQ(full["error"]["type"], "rate_limit_error");
  EXPECT_EQ(full["error"]["param"], nullptr);
  EXPECT_EQ(json::parse(ErrorBody(absl::InternalError("\xff")))["error"]["type"], "server_error");
}

TEST(ErrorsTest, OnlyWhatMayWorkLaterIsWorthAnotherTry) {
  EXPECT_EQ(HttpStatusOf(absl::InvalidArgumentError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::UnimplementedError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::FailedPreconditionError("")), 400);
  EXPECT_EQ(HttpStatusOf(absl::NotFoundError("")), 404);
  EXPECT_EQ(HttpStatusOf(absl::ResourceExhaustedError("")), 429);
  EXPECT_EQ(HttpStatusOf(absl::InternalError("")), 500);
  EXPECT_EQ(HttpStatusOf(absl::UnavailableError("")), 503);
  EXPECT_EQ(HttpStatusOf(absl::DeadlineExceededError("")), 504);
}

}  // namespace
}  // namespace palimpsest::inference
