#include "tools/eval/ask_all.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "common/base/clock.h"
#include "tools/eval/progress.h"

namespace palimpsest::tools::eval {
namespace {

using ::testing::HasSubstr;

// Answers as a function of the question and the attempt says, and counts.
class ScriptedAsker final : public Asker {
 public:
  using Script = std::function<absl::Status(const AnswerKey&, int attempt)>;
  explicit ScriptedAsker(Script script) : script_(std::move(script)) {}

  absl::StatusOr<Answer> Ask(const AnswerKey& key, const Policy& policy, int attempt) override {
    EXPECT_EQ(policy.name, key.policy);
    most = std::max(most.load(), ++now_);
    ++asked;
    const absl::Status status = script_(key, attempt);
    SystemClock().SleepFor(absl::Milliseconds(1));
    --now_;
    if (!status.ok()) return status;
    return Answer{.key = key, .reward = 1, .finish = "stop"};
  }

  std::atomic<int> asked = 0, most = 0;

 private:
  const Script script_;
  std::atomic<int> now_ = 0;
};

absl::Status Fine(const AnswerKey&, int) { return absl::OkStatus(); }

class AskAllTest : public ::testing::Test {
 protected:
  AskAllTest() {
    std::filesystem::remove_all(folder_);
    plan_.policies = *ParsePolicies({"x", "y"}, "");
    book_ = *AnswerBook::Open(folder_, SettingsOf(plan_));
  }
  absl::StatusOr<std::vector<Missing>> Run(Asker& asker) {
    return AskAll(
        plan_, limits_, asker, *book_, SystemClock(), [this] { return stop_.load(); },
        [this](const Tally& tally) { tally_ = tally; });
  }

  const std::string folder_ = ::testing::TempDir() + "/ask-" +
                              ::testing::UnitTest::GetInstance()->current_test_info()->name();
  Plan plan_{.tasks = {{"a", 10}}, .samples = 2};
  AskLimits limits_{.concurrency = 4,
                    .tries = 3,
                    .first_wait = absl::Microseconds(10),
                    .longest_wait = absl::Microseconds(20),
                    .give_up_after = 1000};
  std::unique_ptr<AnswerBook> book_;
  std::atomic<bool> stop_ = false;
  Tally tally_;
};

TEST_F(AskAllTest, EveryAnswerIsAskedForOnceAndNoMoreAtOnceThanAllowed) {
  ScriptedAsker asker(Fine);
  EXPECT_TRUE(Run(asker)->empty());
  EXPECT_EQ(asker.asked, 40);
  EXPECT_EQ(book_->answers().size(), 40);
  EXPECT_LE(asker.most, 4);
  EXPECT_GT(asker.most, 1);
  EXPECT_EQ(tally_.wanted, 40);
  EXPECT_EQ(tally_.answered, 40);
}

TEST_F(AskAllTest, WhatTheBookHasIsNotAskedForAgain) {
  const Answer before{.key = KeysOf(plan_)[7], .reward = 0.25, .finish = "stop"};
  ASSERT_TRUE(book_->Append(before).ok());
  ScriptedAsker asker(Fine);
  EXPECT_TRUE(Run(asker)->empty());
  EXPECT_EQ(asker.asked, 39);
  EXPECT_EQ(book_->answers().at(before.key), before);
  EXPECT_EQ(tally_.before, 1);
}

TEST_F(AskAllTest, AFailureIsTriedAgain) {
  ScriptedAsker asker([](const AnswerKey&, int attempt) {
    return attempt < 3 ? absl::UnavailableError("gone") : absl::OkStatus();
  });
  EXPECT_TRUE(Run(asker)->empty());
  EXPECT_EQ(asker.asked, 3 * 40);
  EXPECT_EQ(tally_.failures, 2 * 40);
}

TEST_F(AskAllTest, WhatKeepsFailingIsMissingAndNoAnswer) {
  const auto broken = [](const AnswerKey& key) { return key.policy == "y" && key.index == 4; };
  ScriptedAsker asker([&](const AnswerKey& key, int) {
    return broken(key) ? absl::AbortedError("a worker was lost") : absl::OkStatus();
  });
  const std::vector<Missing> missing = *Run(asker);
  ASSERT_EQ(missing.size(), 2);
  for (const Missing& one : missing) {
    EXPECT_TRUE(broken(one.key)) << Text(one.key);
    EXPECT_FALSE(book_->Has(one.key));
    EXPECT_THAT(one.why, HasSubstr("a worker was lost"));
  }
  EXPECT_EQ(book_->answers().size(), 38);
  EXPECT_EQ(tally_.missing, 2);
  ScriptedAsker mended(Fine);  // the same again asks for these two
  EXPECT_TRUE(Run(mended)->empty());
  EXPECT_EQ(mended.asked, 2);
}

TEST_F(AskAllTest, ARefusalEndsAllOfItAndNamesTheQuestion) {
  ScriptedAsker asker([](const AnswerKey& key, int) {
    return key.index == 1 ? absl::InvalidArgumentError("too long") : absl::OkStatus();
  });
  const absl::Status status = Run(asker).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("a/heldout/0/1 "));
  EXPECT_LT(asker.asked, 40);
}

TEST_F(AskAllTest, WhenNobodyAnswersTheRestIsNotAskedFor) {
  limits_.give_up_after = 3;
  limits_.concurrency = 1;
  ScriptedAsker asker([](const AnswerKey&, int) { return absl::UnavailableError("gone"); });
  const std::vector<Missing> missing = *Run(asker);
  EXPECT_EQ(missing.size(), 40);
  EXPECT_EQ(asker.asked, 9);
  EXPECT_EQ(missing.back().why, "was not asked");
}

TEST_F(AskAllTest, AStopLeavesTheRestUnasked) {
  limits_.concurrency = 1;
  ScriptedAsker asker([this](const AnswerKey& key, int) {
    if (key.index == 2) stop_ = true;
    return absl::OkStatus();
  });
  EXPECT_EQ(Run(asker)->size(), 40 - 9);
  EXPECT_EQ(book_->answers().size(), 9);
}

TEST(ProgressTest, TellsWhatIsDoneAndWhatIsLeft) {
  const Tally tally{.wanted = 40, .before = 10, .answered = 10, .missing = 2, .failures = 7};
  EXPECT_EQ(ProgressText(tally, absl::Seconds(5)),
            "[###############...............] 20/40  10 of them before  2.00/s  left 0:00:09  "
            "failed tries 7  missing 2");
  EXPECT_EQ(ProgressText({.wanted = 3}, absl::ZeroDuration()),
            "[..............................] 0/3");
}

}  // namespace
}  // namespace palimpsest::tools::eval
