#include "tools/eval/aggregation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace palimpsest::tools::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string NameText(const AttemptName& name) {
  return std::to_string(name.round) + "." + std::to_string(name.member);
}

TEST(ReadsTest, AnAttemptReadsDifferentOnesOfTheRoundBeforeEachAsOftenAsAnyOther) {
  const Aggregation aggregation{.population = 5, .aggregate = 2, .rounds = 3};
  EXPECT_THAT(Reads(aggregation, 7, {0, 3}), IsEmpty());
  std::map<std::vector<int32_t>, int> pairs;
  for (uint64_t seed = 0; seed < 5000; ++seed) ++pairs[Reads(aggregation, seed, {1, 2})];
  EXPECT_EQ(pairs.size(), 10);  // of 5 members, 2
  for (const auto& [pair, times] : pairs) {
    EXPECT_LT(pair[0], pair[1]);
    EXPECT_NEAR(times, 500, 110) << pair[0] << pair[1];  // 5 standard deviations
  }
  EXPECT_EQ(Reads(aggregation, 3, {2, 1}), Reads(aggregation, 3, {2, 1}));
  EXPECT_THAT(Reads({.population = 3, .aggregate = 3, .rounds = 2}, 1, {1, 0}),
              ElementsAre(0, 1, 2));
}

TEST(AggregateTest, MakesWhatTheAnswerDependsOnOnceAndInOrder) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Aggregation aggregation{.population = 4, .aggregate = 2, .rounds = 4};
    std::map<AttemptName, std::vector<std::string>> made;
    const auto answer =
        Aggregate(aggregation, seed,
                  [&](const AttemptName& name,
                      const std::vector<std::string>& read) -> absl::StatusOr<std::string> {
                    EXPECT_FALSE(made.contains(name));
                    made[name] = read;
                    return NameText(name);
                  });
    EXPECT_EQ(*answer, "3.0");
    // What each should have read, and no more than that.
    std::set<AttemptName> needed = {{3, 0}};
    for (auto name = needed.rbegin(); name != needed.rend(); ++name) {
      for (const int32_t member : Reads(aggregation, seed, *name)) {
        needed.insert({name->round - 1, member});
      }
    }
    std::set<AttemptName> names;
    for (const auto& [name, read] : made) {
      names.insert(name);
      std::vector<std::string> wanted;
      for (const int32_t member : Reads(aggregation, seed, name)) {
        wanted.push_back(NameText({name.round - 1, member}));
      }
      EXPECT_EQ(read, wanted) << NameText(name);
    }
    EXPECT_EQ(names, needed);
  }
}

TEST(AggregateTest, OneRoundIsOneAttemptAndAFailureIsTold) {
  int made = 0;
  const auto count = [&](const AttemptName&, const std::vector<std::string>&) {
    ++made;
    return absl::StatusOr<std::string>("x");
  };
  EXPECT_EQ(*Aggregate({.population = 9, .aggregate = 3, .rounds = 1}, 1, count), "x");
  EXPECT_EQ(made, 1);
  const auto fail = [](const AttemptName& name, const std::vector<std::string>&) {
    return name.round == 0 ? absl::StatusOr<std::string>(absl::UnavailableError("gone"))
                           : absl::StatusOr<std::string>("x");
  };
  const auto lost = Aggregate({.population = 2, .aggregate = 1, .rounds = 3}, 1, fail);
  EXPECT_TRUE(absl::IsUnavailable(lost.status()));
}

TEST(WithAttemptsTest, AttemptsStandBehindTheQuestion) {
  EXPECT_EQ(WithAttempts("2+2?", {}), "2+2?");
  const std::string text = WithAttempts("2+2?", {"five", "four"});
  EXPECT_TRUE(text.starts_with("2+2?\n\nCandidate 1:\nfive\n\nCandidate 2:\nfour\n\n")) << text;
}

}  // namespace
}  // namespace palimpsest::tools::eval
