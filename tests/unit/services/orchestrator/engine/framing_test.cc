#include "services/orchestrator/engine/framing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/tokenizer/byte_tokenizer.h"
#include "tests/unit/services/orchestrator/engine/fake_world.h"
#include "tests/unit/services/orchestrator/engine/small_workplace.h"

namespace palimpsest::orchestrator {
namespace {

using testing::HasSubstr;

// A byte-level model whose folder has one of the templates of the tokenizer's goldens, or none.
class FramingTest : public testing::Test {
 protected:
  ~FramingTest() override { std::filesystem::remove_all(folder_); }

  Workplace& Model(const std::string& chat_template, std::vector<std::string> special,
                   std::vector<int32_t> stop_ids) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ + "/tokenizer.json") << *ByteTokenizerJson(special);
    if (!chat_template.empty()) {
      std::filesystem::copy("tests/golden/tokenizer/chat/" + chat_template,
                            folder_ + "/chat_template.jinja");
    }
    world_ = std::make_unique<FakeWorld>(folder_);
    small_ = std::make_unique<SmallWorkplace>(RunPlan{}, folder_, world_->peers());
    Workplace& place = small_->place;
    place.tokenizer = *Tokenizer::Load(folder_);
    place.chat = std::make_shared<const FolderChat>(FolderChat::Read(folder_, "the model"));
    place.model.stop_ids = std::move(stop_ids);
    return place;
  }
  static std::vector<int32_t> Joined(std::vector<std::vector<int32_t>> parts) {
    std::vector<int32_t> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  }

  const std::string folder_ = testing::TempDir() + "/framing-" + std::to_string(getpid());
  std::unique_ptr<FakeWorld> world_;
  std::unique_ptr<SmallWorkplace> small_;
};

TEST_F(FramingTest, TextsStandOneBehindTheOtherAsTheyAre) {
  Workplace& place = Model("", {"<|end|>"}, {256});
  const Prompt prompt{.text = "ab|"};
  const auto framing = Framing::Of(place, prompt);
  ASSERT_TRUE(framing.ok()) << framing.status();
  EXPECT_EQ(*framing->PromptIds(), (std::vector<int32_t>{'a', 'b', '|'}));
  EXPECT_EQ(*framing->ObservationIds({{"user", "c;"}, {"tool", "d"}}, 'x'),
            (std::vector<int32_t>{'c', ';', 'd'}));
  EXPECT_EQ(*framing->ResponseIds("y"), (std::vector<int32_t>{'y', 256}));
  EXPECT_TRUE(absl::IsInvalidArgument(framing->ObservationIds({{"user", ""}}, 'x').status()));
  small_->plan.stop_strings = {"$"};
  EXPECT_EQ(*framing->ResponseIds("y$"), (std::vector<int32_t>{'y', '$'}));
}

// The reference is the template itself over the whole conversation. Tokens were only ever added.
TEST_F(FramingTest, AConversationTurnByTurnIsTheConversationAsItsTemplateRendersIt) {
  constexpr int32_t kClosing = 257;
  for (const std::string name : {"chatml.jinja", "qwen2_5.jinja", "qwen3.jinja"}) {
    Workplace& place = Model(
        name, {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"}, {258, 257});
    const Prompt prompt{.messages = {{"system", "play"}, {"user", "look"}}};
    const auto framing = Framing::Of(place, prompt);
    ASSERT_TRUE(framing.ok()) << name << ": " << framing.status();
    const std::vector<int32_t> response = *framing->ResponseIds("go");
    EXPECT_EQ(response, (std::vector<int32_t>{'g', 'o', kClosing}));
    const std::vector<Message> seen = {{"user", "a wall"}};
    Chat whole{.messages = {
                   {"system", "play"}, {"user", "look"}, {"assistant", "go"}, {"user", "a wall"}}};
    const std::vector<int32_t> expected = *place.chat->own()->Encode(whole, *place.tokenizer);
    EXPECT_EQ(
        Joined({*framing->PromptIds(), response, *framing->ObservationIds(seen, response.back())}),
        expected)
        << name;
    // A response that was cut, or stopped by another id, is closed by what is injected.
    EXPECT_EQ(Joined({*framing->PromptIds(), {'g', 'o'}, *framing->ObservationIds(seen, 'o')}),
              expected)
        << name;
  }
}

TEST_F(FramingTest, AConversationWithoutAKnownTemplateOrAStopIdInItIsRefusedWithTheReason) {
  const Prompt prompt{.messages = {{"user", "look"}}};
  const auto none = Framing::Of(Model("", {"<|end|>"}, {256}), prompt);
  EXPECT_TRUE(absl::IsFailedPrecondition(none.status()));
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("env.prompt is a conversation: the model"));
  const auto open = Framing::Of(
      Model("chatml.jinja", {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}, {258}), prompt);
  EXPECT_THAT(std::string(open.status().message()), HasSubstr("closes no message"));
}

}  // namespace
}  // namespace palimpsest::orchestrator
