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

  const std::string folder_ = testing::TempDir() + "/framing-" + std::to_string(getpid());
  std::unique_ptr<FakeWorld> world_;
  std::unique_ptr<SmallWorkplace> small_;
};

// How turns are framed is tested where it is decided: turn_framing_test.
TEST_F(FramingTest, WhatAnExpertSaysEndsAsAResponseDoes) {
  Workplace& place = Model("", {"<|end|>"}, {256});
  const Prompt prompt{.text = "ab|"};
  const auto framing = Framing::Of(place, prompt);
  ASSERT_TRUE(framing.ok()) << framing.status();
  EXPECT_EQ(*framing->PromptIds(), (std::vector<int32_t>{'a', 'b', '|'}));
  EXPECT_EQ(*framing->ObservationIds({{"user", "c;"}, {"tool", "d"}}, 'x'),
            (std::vector<int32_t>{'c', ';', 'd'}));
  EXPECT_EQ(*framing->ResponseIds("y"), (std::vector<int32_t>{'y', 256}));
  small_->plan.stop_strings = {"$"};
  const auto stopped = Framing::Of(place, prompt);
  EXPECT_EQ(*stopped->ResponseIds("y$"), (std::vector<int32_t>{'y', '$'}));
  EXPECT_EQ(stopped->stops(), std::vector<std::string>{"$"});
}

TEST_F(FramingTest, InAConversationItsEndIsTheTemplates) {
  const Prompt prompt{.messages = {{"user", "look"}}};
  const auto framing = Framing::Of(
      Model("chatml.jinja", {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}, {258, 257}), prompt);
  ASSERT_TRUE(framing.ok()) << framing.status();
  EXPECT_EQ(*framing->ResponseIds("go"), (std::vector<int32_t>{'g', 'o', 257}));
  EXPECT_EQ(framing->ObservationIds({{"user", "a wall"}}, 257)->front(), '\n');
  EXPECT_EQ(framing->ObservationIds({{"user", "a wall"}}, 'o')->front(), 257);
}

TEST_F(FramingTest, AConversationWithoutAKnownTemplateIsRefusedWithTheReason) {
  const Prompt prompt{.messages = {{"user", "look"}}};
  const auto none = Framing::Of(Model("", {"<|end|>"}, {256}), prompt);
  EXPECT_TRUE(absl::IsFailedPrecondition(none.status()));
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("env.prompt is a conversation: the model"));
}

}  // namespace
}  // namespace palimpsest::orchestrator
