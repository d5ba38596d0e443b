#include "common/tokenizer/turn_framing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "common/tokenizer/byte_tokenizer.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

// Bytes and special tokens, with one of the templates of the tokenizer's goldens, or none.
class ByteEncoder final : public TurnEncoder {
 public:
  ByteEncoder(const std::string& chat_template, const std::vector<std::string>& special)
      : tokenizer_(*Tokenizer::FromJson(*ByteTokenizerJson(special))) {
    if (chat_template.empty()) return;
    std::stringstream text;
    text << std::ifstream("tests/golden/tokenizer/chat/" + chat_template).rdbuf();
    template_ = ChatTemplate::FromText(text.str(), "");
  }
  absl::StatusOr<std::vector<int32_t>> Text(const std::string& text) const override {
    return tokenizer_->Encode(text);
  }
  absl::StatusOr<std::vector<int32_t>> Conversation(const Chat& chat) const override {
    if (!template_.ok()) return template_.status();
    return template_->Encode(chat, *tokenizer_);
  }

 private:
  std::unique_ptr<const Tokenizer> tokenizer_;
  absl::StatusOr<ChatTemplate> template_ = absl::FailedPreconditionError("no template");
};

std::vector<int32_t> Joined(std::vector<std::vector<int32_t>> parts) {
  std::vector<int32_t> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(TurnFramingTest, TextsStandOneBehindTheOtherAsTheyAre) {
  const ByteEncoder encoder("", {"<|end|>"});
  const auto framing = TurnFraming::Of(encoder, {.text = "ab|"}, {256});
  ASSERT_TRUE(framing.ok()) << framing.status();
  EXPECT_FALSE(framing->conversation());
  EXPECT_EQ(*framing->PromptIds(), (std::vector<int32_t>{'a', 'b', '|'}));
  EXPECT_EQ(*framing->ObservationIds({{"user", "c;"}, {"tool", "d"}}, 'x'),
            (std::vector<int32_t>{'c', ';', 'd'}));
  EXPECT_TRUE(absl::IsInvalidArgument(framing->ObservationIds({{"user", ""}}, 'x').status()));
}

// The reference is the template itself over the whole conversation. Tokens were only ever added.
TEST(TurnFramingTest, AConversationTurnByTurnIsTheConversationAsItsTemplateRendersIt) {
  constexpr int32_t kClosing = 257;
  for (const std::string name : {"chatml.jinja", "qwen2_5.jinja", "qwen3.jinja"}) {
    const ByteEncoder encoder(
        name, {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"});
    const auto framing = TurnFraming::Of(
        encoder, {.messages = {{"system", "play"}, {"user", "look"}}}, {258, kClosing});
    ASSERT_TRUE(framing.ok()) << name << ": " << framing.status();
    EXPECT_EQ(framing->closing(), kClosing);
    const std::vector<ChatMessage> seen = {{"user", "a wall"}};
    const std::vector<int32_t> whole = *encoder.Conversation(
        {.messages = {
             {"system", "play"}, {"user", "look"}, {"assistant", "go"}, {"user", "a wall"}}});
    EXPECT_EQ(Joined({*framing->PromptIds(),
                      {'g', 'o', kClosing},
                      *framing->ObservationIds(seen, kClosing)}),
              whole)
        << name;
    // A response that was cut, or stopped by another id, is closed by what is injected.
    EXPECT_EQ(Joined({*framing->PromptIds(), {'g', 'o'}, *framing->ObservationIds(seen, 'o')}),
              whole)
        << name;
  }
}

TEST(TurnFramingTest, AConversationWithoutATemplateOrAStopIdInItIsRefusedWithTheReason) {
  const TurnFraming::Opening opening{.messages = {{"user", "look"}}};
  const ByteEncoder none("", {"<|end|>"});
  EXPECT_THAT(std::string(TurnFraming::Of(none, opening, {256}).status().message()),
              HasSubstr("no template"));
  const ByteEncoder open("chatml.jinja", {"<|im_start|>", "<|im_end|>", "<|endoftext|>"});
  const auto refused = TurnFraming::Of(open, opening, {258});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("closes no message"));
}

}  // namespace
}  // namespace palimpsest
