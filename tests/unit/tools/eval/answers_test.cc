#include "tools/eval/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace palimpsest::tools::eval {
namespace {

using ::testing::HasSubstr;

Answer AnAnswer(int64_t index) {
  return {.key = {"a", "heldout", 1, index, "full", 0},
          .reward = 0.1 + 0.2,
          .reason = "one \"of\" two",
          .parts = {{"half", 1}, {"strict", 0.25}},
          .text = "x\n\xe2\x80\xa8y",
          .tags = {"far", "needs_memory"},
          .finish = "stop",
          .responses = 3,
          .prompt_tokens = 16,
          .tokens = 154,
          .events = 8,
          .mean_slots = 41.25,
          .peak_slots = 56,
          .seconds = 0.5};
}

class AnswerBookTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& text, std::ios::openmode mode) {
    std::ofstream(folder_ + "/answers.jsonl", mode | std::ios::binary) << text;
  }
  const std::string folder_ = ::testing::TempDir() + "/book-" +
                              ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const Settings settings_ = {{"seed", "1"}, {"temperature", "1"}};
};

TEST(AnswerLineTest, GoesThereAndBackInOneLine) {
  const std::string line = ToLine(AnAnswer(3));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const absl::StatusOr<Answer> back = FromLine(line);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, AnAnswer(3));
  EXPECT_FALSE(FromLine(line.substr(0, line.size() - 1)).ok());
  EXPECT_FALSE(FromLine("{\"task\": 7}").ok());
}

TEST_F(AnswerBookTest, KeepsWhatWasAppended) {
  {
    const auto book = *AnswerBook::Open(folder_, settings_);
    ASSERT_TRUE(book->Append(AnAnswer(0)).ok());
    ASSERT_TRUE(book->Append(AnAnswer(4)).ok());
  }
  const auto book = *AnswerBook::Open(folder_, settings_);
  EXPECT_EQ(book->answers().size(), 2);
  EXPECT_TRUE(book->Has(AnAnswer(4).key));
  EXPECT_FALSE(book->Has(AnAnswer(1).key));
  EXPECT_EQ(book->answers().at(AnAnswer(4).key), AnAnswer(4));
}

TEST_F(AnswerBookTest, ALineThatAKilledProcessLeftHalfWrittenIsCutOff) {
  { ASSERT_TRUE((*AnswerBook::Open(folder_, settings_))->Append(AnAnswer(0)).ok()); }
  Write(ToLine(AnAnswer(1)).substr(0, 40), std::ios::app);
  {
    const auto book = *AnswerBook::Open(folder_, settings_);
    EXPECT_EQ(book->answers().size(), 1);
    ASSERT_TRUE(book->Append(AnAnswer(2)).ok());
  }
  const auto book = *AnswerBook::Open(folder_, settings_);
  EXPECT_EQ(book->answers().size(), 2);
  EXPECT_TRUE(book->Has(AnAnswer(2).key));
}

TEST_F(AnswerBookTest, ABrokenLineInTheMiddleIsNamed) {
  { ASSERT_TRUE(AnswerBook::Open(folder_, settings_).ok()); }
  Write(ToLine(AnAnswer(0)) + "\nrubbish\n", std::ios::trunc);
  const absl::Status status = AnswerBook::Open(folder_, settings_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("answers.jsonl:2"));
}

TEST_F(AnswerBookTest, OtherSettingsAreRefusedByName) {
  { ASSERT_TRUE(AnswerBook::Open(folder_, settings_).ok()); }
  { ASSERT_TRUE(AnswerBook::Open(folder_, {{"seed", "1"}, {"policy.new", ""}}).ok()); }
  const absl::Status status =
      AnswerBook::Open(folder_, {{"seed", "1"}, {"temperature", "0.5"}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("temperature was \"1\" and is \"0.5\""));
}

TEST_F(AnswerBookTest, TwoEvaluationsDoNotWriteOneBook) {
  auto first = *AnswerBook::Open(folder_, settings_);
  EXPECT_THAT(AnswerBook::Open(folder_, settings_).status().message(),
              HasSubstr("another evaluation"));
  first.reset();
  EXPECT_TRUE(AnswerBook::Open(folder_, settings_).ok());
}

}  // namespace
}  // namespace palimpsest::tools::eval
