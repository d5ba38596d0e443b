#include <functional>

#include "tests/unit/services/inference/server/server_fixture.h"

namespace palimpsest::inference {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kImStart = 257, kImEnd = 258;  // after <|end|>

std::string GoldenTemplate(const std::string& name) {
  return weights::Read("tests/golden/tokenizer/chat/" + name + ".jinja");
}

std::vector<int> Ids(const std::vector<std::string>& turns, bool prompt) {
  std::vector<int> ids;
  for (size_t i = 0; i < turns.size(); ++i) {
    ids.push_back(kImStart);
    for (const char c : turns[i]) ids.push_back(static_cast<unsigned char>(c));
    if (prompt && i + 1 == turns.size()) break;
    ids.push_back(kImEnd);
    ids.push_back('\n');
  }
  return ids;
}

class ChatTest : public ServerTest {
 protected:
  void Serve(const std::string& name) {
    weights::Write(model_ / "chat_template.jinja", GoldenTemplate(name));
    StartServer();
  }
  static v1::ChatPrompt Hello() {
    v1::ChatPrompt chat;
    const auto add = [&](const char* role, const char* content) {
      v1::ChatMessage& message = *chat.add_messages();
      message.set_role(role);
      message.set_content(content);
    };
    add("system", "Be kind.");
    add("user", "hi");
    return chat;
  }
  // What Generate and Tokenize say to it must be one and the same.
  std::string Refusal(const v1::ChatPrompt& chat) {
    v1::GenerateRequest request = Request("r" + std::to_string(++calls_));
    *request.mutable_prompt_chat() = chat;
    const std::string generate = Call(request).Next();
    v1::TokenizeRequest tokenize;
    *tokenize.mutable_chat() = chat;
    v1::TokenizeResponse response;
    const grpc::Status status = stub_->Tokenize(Context().get(), tokenize, &response);
    const std::string said =
        std::to_string(status.error_code()) + " " + std::string(status.error_message());
    EXPECT_EQ(generate, "status " + std::string(said).replace(said.find("chat"), 4, "prompt_chat"));
    return said;
  }
  int calls_ = 0;
};

TEST_F(ChatTest, AConversationIsRenderedAndEncodedWithItsControlTokens) {
  Serve("chatml");
  v1::GenerateRequest request = Request("a");
  *request.mutable_prompt_chat() = Hello();
  Stream stream = Call(request);
  ASSERT_EQ(stream.Next(), "accepted");
  const std::vector<int> want = Ids({"system\nBe kind.", "user\nhi", "assistant\n"}, true);
  EXPECT_THAT(stream.last.accepted().prompt_ids(), ::testing::ElementsAreArray(want));
  EXPECT_THAT(engine_->submission(0).prompt, ::testing::ElementsAreArray(want));
}

TEST_F(ChatTest, TokenizeGivesTheSameIdsAndLeavesThePromptOutWhenAsked) {
  Serve("chatml");
  v1::TokenizeRequest request;
  *request.mutable_chat() = Hello();
  v1::TokenizeResponse response;
  ASSERT_TRUE(stub_->Tokenize(Context().get(), request, &response).ok());
  EXPECT_THAT(response.ids(), ::testing::ElementsAreArray(
                                  Ids({"system\nBe kind.", "user\nhi", "assistant\n"}, true)));
  request.mutable_chat()->set_add_generation_prompt(false);
  ASSERT_TRUE(stub_->Tokenize(Context().get(), request, &response).ok());
  EXPECT_THAT(response.ids(),
              ::testing::ElementsAreArray(Ids({"system\nBe kind.", "user\nhi"}, false)));
  request.set_add_special_tokens(true);
  EXPECT_THAT(stub_->Tokenize(Context().get(), request, &response).error_message(),
              StartsWith("add_special_tokens=true"));
}

TEST_F(ChatTest, ThinkingAndReasoningReachTheTemplate) {
  Serve("qwen3");
  v1::TokenizeRequest request;
  *request.mutable_chat() = Hello();
  request.mutable_chat()->set_enable_thinking(false);
  v1::ChatMessage& answer = *request.mutable_chat()->add_messages();
  answer.set_role("assistant");
  answer.set_content("yes");
  answer.set_reasoning_content("why not");
  v1::TokenizeResponse response;
  ASSERT_TRUE(stub_->Tokenize(Context().get(), request, &response).ok());
  EXPECT_THAT(response.ids(),
              ::testing::ElementsAreArray(Ids(
                  {"system\nBe kind.", "user\nhi", "assistant\n<think>\nwhy not\n</think>\n\nyes",
                   "assistant\n<think>\n\n</think>\n\n"},
                  true)));
}

TEST_F(ChatTest, ATemplateThatTheCallerBringsGoesBeforeTheModels) {
  StartServer();  // the model has none
  v1::TokenizeRequest request;
  *request.mutable_chat() = Hello();
  request.mutable_chat()->set_template_(GoldenTemplate("chatml"));
  v1::TokenizeResponse response;
  EXPECT_TRUE(stub_->Tokenize(Context().get(), request, &response).ok());
  request.mutable_chat()->set_template_("{{ messages }}");
  EXPECT_THAT(Refusal(request.chat()),
              AllOf(StartsWith("9 chat.template: chat template that is not known"),
                    HasSubstr("known are ChatML")));
}

TEST_F(ChatTest, RefusalsNameTheField) {
  Serve("chatml");
  const auto refused = [&](const std::function<void(v1::ChatPrompt&)>& breaks) {
    v1::ChatPrompt chat = Hello();
    breaks(chat);
    return Refusal(chat);
  };
  EXPECT_THAT(refused([](auto& c) { c.clear_messages(); }),
              StartsWith("3 chat.messages: is empty"));
  EXPECT_THAT(refused([](auto& c) { c.mutable_messages(1)->set_role("bot"); }),
              StartsWith("3 chat.messages[1].role=bot is none of"));
  EXPECT_THAT(refused([](auto& c) { c.set_enable_thinking(true); }),
              StartsWith("3 chat.enable_thinking=true"));
  EXPECT_THAT(refused([](auto& c) { c.set_date_string("1 May"); }),
              StartsWith("3 chat.date_string=1 May"));
  EXPECT_THAT(refused([](auto& c) { c.mutable_messages(0)->set_reasoning_content(""); }),
              StartsWith("3 chat.messages[0].reasoning_content"));
  EXPECT_EQ(engine_->submissions(), 0u);
}

TEST_F(ChatTest, AModelWhoseTemplateIsUnknownOrAbsentSaysSo) {
  weights::Write(model_ / "chat_template.jinja", "{{ messages[0].content }}");
  StartServer();
  EXPECT_THAT(Refusal(Hello()),
              AllOf(StartsWith("9 chat: "), HasSubstr("chat_template.jinja: chat template that is"),
                    HasSubstr("can be sent as text")));
}

TEST_F(ChatTest, AModelWithoutATokenizerTakesNoConversation) {
  StartServer(false);
  serving_.Install(engine_, nullptr, nullptr);
  EXPECT_THAT(Refusal(Hello()), StartsWith("9 chat: the model has no tokenizer"));
}

}  // namespace
}  // namespace palimpsest::inference
