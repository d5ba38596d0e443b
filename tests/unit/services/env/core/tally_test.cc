#include "services/env/core/tally.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace palimpsest::env {
namespace {

using ::testing::HasSubstr;

// An own account of the texts: what each register is after what has been said.
class Ledger {
 public:
  explicit Ledger(const std::string& prompt) {
    const std::string starts = prompt.substr(1, prompt.find('|') - 1);
    for (size_t i = 0; i < starts.size(); i += 2) values_[starts[i]] = starts[i + 1] - '0';
  }
  // The right response to an instruction or to the question.
  std::string Answer(const std::string& said) {
    if (said[0] != '?') {
      int& value = values_[said[0]];
      value = (value + said[2] - '0') % 10;
      return said[0] + std::to_string(value) + "$";
    }
    std::string all;
    for (const char c : said.substr(1, said.size() - 2)) all += c + std::to_string(values_[c]);
    return all + "$";
  }

 private:
  std::map<char, int> values_;
};

TEST(TallyTest, TheTextsSayWhatIsAskedAndLengthsAreConstant) {
  const auto task = *MakeTally({});
  for (int64_t index = 0; index < 50; ++index) {
    Episode episode = *task->Make(Split::kTrain, 3, index);
    ASSERT_EQ(episode.prompt.size(), 14u);
    Ledger ledger(episode.prompt);
    size_t total = episode.prompt.size();
    std::string said = episode.prompt.substr(episode.prompt.find('|') + 1);
    int turns = 0;
    for (bool done = false; !done; ++turns) {
      const std::string response = ledger.Answer(said);
      EXPECT_EQ(response, *task->Demonstrate(episode, {}));
      const Turn turn = *task->Step(episode, response);
      total += response.size() + turn.observation.size();
      episode.state = turn.state;
      said = turn.observation;
      done = turn.done;
    }
    EXPECT_EQ(turns, task->max_turns());
    EXPECT_EQ(total, 109u);
    EXPECT_EQ(task->Grade(episode, "")->reward, 1);
  }
}

TEST(TallyTest, EachRightResponseCountsAndTheOrderOfTheAnswerMatters) {
  const auto task = *MakeTally({.instructions = 4, .registers = 2, .line_weight = 0.4});
  Episode episode = *task->Make(Split::kSft, 1, 1);
  for (int turn = 0; turn < 4; ++turn) {
    const std::string right = *task->Demonstrate(episode, {});
    episode.state = task->Step(episode, turn == 2 ? "x" + right : right)->state;
  }
  EXPECT_NEAR(task->Grade(episode, "")->reward, 0.3, 1e-12);
  EXPECT_THAT(task->Grade(episode, "")->reason, HasSubstr("ended after 4 turns"));
  const std::string answer = *task->Demonstrate(episode, {});
  const std::string turned = answer.substr(2, 2) + answer.substr(0, 2) + "$";
  Episode right = episode, wrong = episode;
  right.state = task->Step(episode, answer + "trailing")->state;
  wrong.state = task->Step(episode, turned)->state;
  EXPECT_NEAR(task->Grade(right, "")->reward, 0.9, 1e-12);
  EXPECT_NEAR(task->Grade(wrong, "")->reward, 0.3, 1e-12);
}

TEST(TallyTest, NoiseSpoilsTheAnswerOnlyAndIsTheSameEachTime) {
  const auto task = *MakeTally({});
  int right = 0;
  for (int64_t index = 0; index < 200; ++index) {
    Episode episode = *task->Make(Split::kSft, 1, index);
    for (int turn = 0; turn < 12; ++turn) {
      const std::string line = *task->Demonstrate(episode, {.answer = 1});
      EXPECT_EQ(line, *task->Demonstrate(episode, {}));
      episode.state = task->Step(episode, line)->state;
    }
    const std::string answer = *task->Demonstrate(episode, {.answer = 0.5});
    EXPECT_EQ(answer, *task->Demonstrate(episode, {.answer = 0.5}));
    right += task->Step(episode, answer)->state.back() - '0';
  }
  EXPECT_NEAR(right / 800.0, 1 - 0.9 * 0.5, 0.06);  // three standard errors
}

// Most episodes cannot be answered from the last third; in the others each register is named there
// or stands in the prompt alone.
TEST(TallyTest, ItNeedsMemoryWhereSomeRegisterWasLastNamedLongAgo) {
  const auto task = *MakeTally({});
  int need = 0;
  for (int64_t index = 0; index < 200; ++index) {
    Episode episode = *task->Make(Split::kTrain, 2, index);
    std::map<char, int> last;
    std::string said = episode.prompt.substr(episode.prompt.find('|') + 1);
    for (int turn = 0; turn < 12; ++turn) {
      last[said[0]] = turn;
      const Turn next = *task->Step(episode, "");
      episode.state = next.state;
      said = next.observation;
    }
    bool old = false;
    for (const auto& [name, turn] : last) old |= turn < 8;
    EXPECT_EQ(episode.needs_memory, old);
    need += old;
  }
  EXPECT_GT(need, 100);
  EXPECT_LT(need, 200);
}

TEST(TallyTest, StatesOfOthersAndEpisodesThatAreOverAreRefused) {
  const auto task = *MakeTally({.instructions = 2, .registers = 3});
  Episode episode = *task->Make(Split::kTrain, 1, 0);
  for (const char* state : {"2", "x", "114", "1111", "11\n"}) {
    episode.state = state;
    EXPECT_THAT(std::string(task->Step(episode, "").status().message()), HasSubstr("not ours"));
    EXPECT_FALSE(task->Grade(episode, "").ok());
  }
  episode.state = "113";
  EXPECT_EQ(task->Grade(episode, "")->reward, 1);
  EXPECT_THAT(std::string(task->Step(episode, "").status().message()), HasSubstr("over"));
  EXPECT_THAT(std::string(task->Demonstrate(episode, {}).status().message()), HasSubstr("over"));
  EXPECT_THAT(std::string(task->Grade(episode, "a1").status().message()), HasSubstr("stepped"));
}

TEST(TallyTest, OptionsOutOfRangeAreNamed) {
  EXPECT_THAT(std::string(MakeTally({.instructions = 1}).status().message()),
              HasSubstr("tally.instructions=1"));
  EXPECT_THAT(std::string(MakeTally({.registers = 10}).status().message()),
              HasSubstr("tally.registers=10"));
  EXPECT_THAT(std::string(MakeTally({.line_weight = 2}).status().message()),
              HasSubstr("tally.line_weight=2"));
}

}  // namespace
}  // namespace palimpsest::env
