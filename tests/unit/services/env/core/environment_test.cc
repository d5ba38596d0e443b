// What every task owes, and the registry.
#include "services/env/core/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <string>

#include "services/env/core/registry.h"

namespace palimpsest::env {
namespace {

using ::testing::HasSubstr;

class EnvironmentContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto environments = BuiltInEnvironments({});
    ASSERT_TRUE(environments.ok()) << environments.status();
    environments_ = *std::move(environments);
    const auto found = FindEnvironment(environments_, GetParam());
    ASSERT_TRUE(found.ok()) << found.status();
    task_ = *found;
  }

  EnvironmentMap environments_;
  const Environment* task_ = nullptr;
};

// The numbers of a prompt in ascending order: what a problem is, whatever its wording or order.
std::string SortedNumbers(const std::string& prompt) {
  std::multiset<std::string> numbers;
  std::string digits;
  for (char c : prompt + " ") {
    if (std::isdigit(static_cast<unsigned char>(c))) {
      digits += c;
    } else if (!digits.empty()) {
      numbers.insert(std::exchange(digits, ""));
    }
  }
  std::string key;
  for (const std::string& n : numbers) key += n + ",";
  return key;
}

// The score of an episode whose responses are those of `respond`, asked with what happened so far.
template <class Respond>
absl::StatusOr<Score> Play(const Environment& task, Episode episode, const Respond& respond) {
  if (task.max_turns() == 1) return task.Grade(episode, respond(episode));
  for (bool done = false; !done;) {
    const auto turn = task.Step(episode, respond(episode));
    if (!turn.ok()) return turn.status();
    EXPECT_EQ(turn->done, turn->observation.empty());
    episode.state = turn->state;
    done = turn->done;
  }
  return task.Grade(episode, "");
}

TEST_P(EnvironmentContract, EpisodesDependOnTheirFourNumbersOnly) {
  auto others = BuiltInEnvironments({});
  ASSERT_TRUE(others.ok());
  const Environment& replica = *others->at(GetParam());
  for (int64_t index : {0, 1, 2, 1000000}) {
    (void)replica.Make(Split::kSft, 1, index + 7);  // what was asked before does not matter
    const auto a = task_->Make(Split::kTrain, 42, index);
    const auto b = replica.Make(Split::kTrain, 42, index);
    ASSERT_TRUE(a.ok() && b.ok());
    EXPECT_EQ(*a, *b);
  }
  const auto base = task_->Make(Split::kTrain, 42, 0);
  EXPECT_NE(base->prompt, task_->Make(Split::kTrain, 42, 1)->prompt);
  EXPECT_NE(base->prompt, task_->Make(Split::kTrain, 43, 0)->prompt);
  EXPECT_NE(base->prompt, task_->Make(Split::kHeldout, 42, 0)->prompt);
}

TEST_P(EnvironmentContract, SplitsShareNoPrompt) {
  std::map<std::string, Split> owner;
  for (Split split : kSplits) {
    for (int i = 0; i < 8000; ++i) {
      const auto episode = task_->Make(split, i % 3, i);
      ASSERT_TRUE(episode.ok()) << episode.status();
      const auto [at, fresh] = owner.emplace(episode->prompt, split);
      ASSERT_EQ(at->second, split) << episode->prompt;
    }
  }
  EXPECT_GT(owner.size(), 20000u);
}

TEST_P(EnvironmentContract, DemonstrationsScoreOne) {
  for (Split split : kSplits) {
    for (int i = 0; i < 200; ++i) {
      const auto episode = task_->Make(split, 9, i);
      ASSERT_TRUE(episode.ok());
      const auto score = Play(*task_, *episode, [&](const Episode& now) {
        return task_->Demonstrate(now, {}).value();
      });
      ASSERT_TRUE(score.ok()) << score.status();
      EXPECT_DOUBLE_EQ(score->reward, 1.0) << score->reason;
    }
  }
}

TEST_P(EnvironmentContract, AnyBytesGetABoundedRewardAndAPrintableReason) {
  RandomStream stream(7);
  const auto episode = task_->Make(Split::kTrain, 1, 1);
  ASSERT_TRUE(episode.ok());
  const std::string good = *task_->Demonstrate(*episode, {});
  for (int i = 0; i < 3000; ++i) {
    std::string response = good;
    if (i % 2 == 0) response.assign(stream.Below(300), '\0');
    const int64_t changes = i % 2 == 0 ? static_cast<int64_t>(response.size()) : stream.Below(4);
    for (int64_t k = 0; k < changes; ++k) {
      response[i % 2 == 0 ? k : stream.Below(static_cast<int64_t>(response.size()))] =
          static_cast<char>(stream.Below(256));
    }
    const auto score = Play(*task_, *episode, [&](const Episode&) { return response; });
    ASSERT_TRUE(score.ok()) << score.status();
    EXPECT_GE(score->reward, 0);
    EXPECT_LE(score->reward, 1 + 1e-12);
    EXPECT_FALSE(score->reason.empty());
    EXPECT_TRUE(std::all_of(score->reason.begin(), score->reason.end(),
                            [](char c) { return c >= ' ' && c <= '~'; }));
  }
}

TEST_P(EnvironmentContract, ForeignAndBrokenEpisodesAreErrors) {
  const auto good = task_->Make(Split::kTrain, 1, 1);
  ASSERT_TRUE(good.ok());
  Episode foreign = *good;
  foreign.task = "other";
  Episode empty = *good;
  empty.answer.clear();
  Episode lost = *good;
  lost.split = static_cast<Split>(0);
  for (const Episode& bad : {foreign, empty, lost}) {
    EXPECT_EQ(task_->Grade(bad, "x").status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(task_->Demonstrate(bad, {}).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(EnvironmentContract, BadDrawsAndNoisesAreErrorsThatNameTheField) {
  const auto negative = task_->Make(Split::kTrain, 1, -1);
  EXPECT_THAT(std::string(negative.status().message()), HasSubstr("index=-1"));
  const auto unknown = task_->Make(static_cast<Split>(9), 1, 0);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("split=9"));
  const auto noisy = task_->Demonstrate(*task_->Make(Split::kSft, 1, 0), {.answer = 1.5});
  EXPECT_THAT(std::string(noisy.status().message()), HasSubstr("noise.answer=1.5"));
}

INSTANTIATE_TEST_SUITE_P(BuiltIn, EnvironmentContract,
                         testing::Values("registers", "countdown", "tally"),
                         [](const auto& param) { return param.param; });

// Stronger than prompts: the same numbers under another question or order keep their split.
TEST(SplitTest, RegistersAndTallyShareNoStartingValuesAndCountdownNoNumbersWithTarget) {
  const auto environments = BuiltInEnvironments({});
  ASSERT_TRUE(environments.ok());
  for (const auto& [name, task] : *environments) {
    std::map<std::string, Split> owner;
    for (Split split : kSplits) {
      for (int i = 0; i < 7000; ++i) {
        const std::string prompt = task->Make(split, 1, i)->prompt;
        const std::string key = name == "registers" ? prompt.substr(2, 8)
                                : name == "tally"   ? prompt.substr(1, 8)
                                                    : SortedNumbers(prompt);
        ASSERT_EQ(owner.emplace(key, split).first->second, split) << prompt;
      }
    }
  }
}

TEST(SplitTest, ClassesHaveTheStatedShares) {
  std::map<Split, int> count;
  for (int i = 0; i < 80000; ++i) ++count[SplitOf(std::to_string(i))];
  EXPECT_NEAR(count[Split::kTrain], 40000, 1000);
  EXPECT_NEAR(count[Split::kSft], 30000, 1000);
  EXPECT_NEAR(count[Split::kHeldout], 10000, 600);
}

TEST(RegistryTest, EveryTaskStandsUnderItsOwnName) {
  const auto environments = BuiltInEnvironments({});
  ASSERT_TRUE(environments.ok());
  EXPECT_EQ(environments->size(), 3u);
  for (const auto& [name, task] : *environments) EXPECT_EQ(name, task->name());
}

TEST(RegistryTest, AnUnknownTaskIsNotFoundAndTheKnownOnesAreNamed) {
  const auto environments = BuiltInEnvironments({});
  ASSERT_TRUE(environments.ok());
  const auto found = FindEnvironment(*environments, "chess");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("countdown, registers, tally"));
}

TEST(RegistryTest, BadOptionsOfOneTaskAreRefusedWithTheirName) {
  EnvironmentOptions options;
  options.registers.far_share = 2;
  const auto environments = BuiltInEnvironments(options);
  EXPECT_THAT(std::string(environments.status().message()), HasSubstr("registers.far_share=2"));
}

}  // namespace
}  // namespace palimpsest::env
