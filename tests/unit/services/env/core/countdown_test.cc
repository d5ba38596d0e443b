#include "services/env/core/countdown.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace palimpsest::env {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<const Environment> Task() {
  auto task = MakeCountdown({});
  EXPECT_TRUE(task.ok()) << task.status();
  return *std::move(task);
}

std::string Reason(std::vector<int64_t> numbers, int64_t target, std::string_view answer) {
  return ScoreCountdown(numbers, target, answer).reason;
}

TEST(CountdownTest, RewardsEqualReasoningGymsOnItsOwnProblems) {
  std::ifstream file("tests/golden/env/countdown.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  ASSERT_GE(golden["cases"].size(), 200u);
  const auto task = Task();
  int solved = 0;
  for (const auto& c : golden["cases"]) {
    const std::vector<int64_t> numbers = c["numbers"];
    Episode episode;
    episode.task = "countdown";
    for (int64_t n : numbers) {
      std::string& text = episode.answer["numbers"];
      text += (text.empty() ? "" : ",") + std::to_string(n);
    }
    episode.answer["target"] = std::to_string(c["target"].get<int64_t>());
    const std::string response = c["response"];
    const auto score = task->Grade(episode, response);
    ASSERT_TRUE(score.ok()) << score.status();
    EXPECT_EQ(score->reward, c["reward"].get<double>())
        << c["kind"] << ": " << response << ": " << score->reason;
    solved += score->reward == kSolved;
  }
  EXPECT_GE(solved, 100);
}

TEST(CountdownTest, ReasonsSayWhichNumberAndWhichValue) {
  EXPECT_EQ(Reason({7, 50, 3}, 350, "7*50*7*3"), "number 7 used twice");
  EXPECT_EQ(Reason({7, 50, 3}, 350, "7*50*1"), "number 1 is not given");
  EXPECT_EQ(Reason({7, 50, 3}, 350, "7*50"), "number 3 not used");
  EXPECT_EQ(Reason({7, 7, 3}, 350, "7*3"), "number 7 used once, given twice");
  EXPECT_EQ(Reason({7, 7, 3}, 350, "7*7*7*3"), "number 7 used 3 times, given twice");
  EXPECT_EQ(Reason({7, 50, 3}, 350, "7*50+3"), "value 353 is not 350");
  EXPECT_EQ(Reason({7, 50, 3}, 350, "7*50/(3"), "not an expression: expected ')' at byte 7");
  EXPECT_EQ(Reason({7, 50, 3}, 350, ""), "no answer");
  EXPECT_EQ(Reason({7, 50, 3}, 353, "7*50+3"), "solved");
}

TEST(CountdownTest, TheLastClosedAnswerTagCounts) {
  EXPECT_EQ(ExtractAnswer("<answer>1</answer> <answer> 2 \n</answer> 3"), "2");
  EXPECT_EQ(ExtractAnswer("<answer>1</answer><answer>2"), "1");
  EXPECT_EQ(ExtractAnswer(" 1+2\n"), "1+2");
  EXPECT_EQ(ExtractAnswer("<answer>1"), "<answer>1");
  EXPECT_EQ(ExtractAnswer("</answer><answer></answer>"), "");
}

// The ranges are reasoning-gym's defaults; the bounds are wide of its measured 300-draw averages
// (numbers 46, targets 380, '/' in 19 %, '*' in 67 % of the expressions).
TEST(CountdownTest, ProblemsHaveTheReferencesRangesAndFrequencies) {
  const auto task = Task();
  constexpr int kDraws = 2000;
  double count_sum = 0, target_sum = 0, number_sum = 0, divided = 0, multiplied = 0;
  for (int i = 0; i < kDraws; ++i) {
    const auto episode = task->Make(Split::kTrain, 5, i);
    ASSERT_TRUE(episode.ok()) << episode.status();
    const int64_t target = std::stoll(episode->answer.at("target"));
    EXPECT_TRUE(target >= 100 && target <= 999) << target;
    std::string text = episode->answer.at("numbers");
    int count = 0;
    for (size_t at = 0; at != std::string::npos; ++count) {
      const int64_t n = std::stoll(text.substr(at));
      EXPECT_TRUE(n >= 1 && n <= 100) << n;
      number_sum += static_cast<double>(n);
      at = text.find(',', at);
      if (at != std::string::npos) ++at;
    }
    EXPECT_TRUE(count >= 4 && count <= 6) << text;
    count_sum += count;
    target_sum += static_cast<double>(target);
    divided += episode->answer.at("expression").find('/') != std::string::npos;
    multiplied += episode->answer.at("expression").find('*') != std::string::npos;
  }
  EXPECT_NEAR(count_sum / kDraws, 5.0, 0.1);
  EXPECT_NEAR(number_sum / count_sum, 46.4, 3);
  EXPECT_NEAR(target_sum / kDraws, 380, 30);
  EXPECT_NEAR(divided / kDraws, 0.187, 0.07);
  EXPECT_NEAR(multiplied / kDraws, 0.67, 0.09);
}

TEST(CountdownTest, DemonstrationsSolveTheirProblems) {
  const auto task = Task();
  for (int i = 0; i < 1000; ++i) {
    const auto episode = task->Make(Split::kSft, 3, i);
    ASSERT_TRUE(episode.ok());
    const auto response = task->Demonstrate(*episode, {});
    ASSERT_TRUE(response.ok());
    EXPECT_LE(response->size(), static_cast<size_t>(episode->max_response_bytes));
    const auto score = task->Grade(*episode, *response);
    ASSERT_TRUE(score.ok());
    EXPECT_EQ(score->reward, 1.0) << *response << ": " << score->reason;
  }
}

TEST(CountdownTest, NoisyDemonstrationsAreRefused) {
  const auto task = Task();
  const auto episode = task->Make(Split::kSft, 3, 0);
  ASSERT_TRUE(episode.ok());
  const auto response = task->Demonstrate(*episode, {.answer = 0.5});
  EXPECT_EQ(response.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CountdownTest, BrokenEpisodesAreErrorsAndNeverRewards) {
  const auto task = Task();
  const auto good = task->Make(Split::kTrain, 1, 0);
  ASSERT_TRUE(good.ok());
  for (const auto& [key, text] :
       std::vector<std::pair<std::string, std::string>>{{"numbers", ""},
                                                        {"numbers", "1,x"},
                                                        {"numbers", "1,,2"},
                                                        {"numbers", "0,1"},
                                                        {"target", ""},
                                                        {"target", "x"},
                                                        {"target", "-5"}}) {
    Episode bad = *good;
    bad.answer[key] = text;
    const auto score = task->Grade(bad, "1");
    ASSERT_FALSE(score.ok()) << key << "=" << text;
    EXPECT_THAT(std::string(score.status().message()), HasSubstr(key));
  }
}

TEST(CountdownTest, OptionsOutOfRangeAreNamed) {
  EXPECT_THAT(std::string(Validate(CountdownOptions{.min_numbers = 1}).message()),
              HasSubstr("countdown.min_numbers=1"));
  EXPECT_THAT(
      std::string(Validate(CountdownOptions{.max_numbers = 7, .max_value = 1000}).message()),
      HasSubstr("countdown.max_numbers=7"));
  EXPECT_TRUE(Validate(CountdownOptions{.max_numbers = 6, .max_value = 1000}).ok());
  EXPECT_THAT(std::string(Validate(CountdownOptions{.max_target = 99}).message()),
              HasSubstr("countdown.max_target=99"));
}

TEST(CountdownTest, ATargetThatNothingReachesIsAnError) {
  const auto task =
      MakeCountdown({.min_numbers = 2, .max_numbers = 2, .max_value = 2, .min_target = 900});
  ASSERT_TRUE(task.ok());
  EXPECT_EQ((*task)->Make(Split::kTrain, 0, 0).status().code(), absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace palimpsest::env
