// What fsck finds of rollouts, their rewards and messages.
#include "tests/unit/tools/fsck/fsck_fixture.h"

namespace palimpsest::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using orchestrator::FakeWorld;
using orchestrator::Ledger;
using testing::HasSubstr;
using testing::Not;

TEST_F(FsckTest, AnInfrastructureFailureWithARewardIsFound) {
  Corrupt("UPDATE rollouts SET outcome = 4, reward = 0 WHERE grp = 2 AND sample = 1");
  ExpectOnly("no_failure_became_a_reward", "of prompt 2 has outcome 4, which is a failure");
}

TEST_F(FsckTest, AMissingRewardThatWouldCountAsZeroIsFound) {
  Corrupt("UPDATE rollouts SET reward = NULL WHERE grp = 0 AND sample = 0");
  ExpectOnly("no_failure_became_a_reward", "of prompt 0 has no finite reward");
}

TEST_F(FsckTest, RewardsThatWereChangedAfterwardsAreFound) {
  Corrupt("UPDATE rollouts SET reward = 1.0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("FAIL  advantages_are_of_their_rewards"));
  EXPECT_THAT(table_, HasSubstr("the rewards of its group give 0"));
}

TEST_F(FsckTest, ARewardOfAStepThatIsNotThatOfItsRolloutsIsFound) {
  Corrupt("UPDATE steps SET reward = 0.9 WHERE step = 4");
  ExpectOnly("advantages_are_of_their_rewards",
             "step 4 (batch rl.1) was recorded with reward 0.9, its rollouts have ");
  Corrupt("UPDATE steps SET reward = NULL WHERE step = 4");
  ExpectOnly("advantages_are_of_their_rewards", "of rollouts, and was recorded with no reward");
  Corrupt(
      "UPDATE steps SET reward = (SELECT AVG(reward) FROM rollouts r, prompt_groups g "
      "WHERE r.grp = g.id AND g.step = 4) WHERE step = 4");
  ExpectSound();
  Corrupt("UPDATE steps SET reward = 0.5 WHERE step = 1");
  ExpectOnly("advantages_are_of_their_rewards",
             "step 1 (batch warm.0) is of demonstrations, and was recorded with a reward");
}

TEST_F(FsckTest, AdvantagesThatAreNotThoseOfTheirRewardsAreFound) {
  Corrupt("UPDATE rollouts SET advantage = 2 * advantage + (sample = 0) WHERE grp = 5");
  ExpectOnly("advantages_are_of_their_rewards", "of prompt 5 has advantage ");
}

// With what the ledger of an older program holds.
TEST_F(FsckTest, WithoutSettingsAdvantagesBalanceAtLeastAndThatIsSaid) {
  Corrupt("DELETE FROM meta WHERE key = 'settings'");
  Look();
  EXPECT_EQ(code_, 0) << table_;
  EXPECT_THAT(table_, HasSubstr("of 8 groups the advantages are only seen to balance: the ledger "
                                "does not hold the settings"));
  Corrupt("UPDATE rollouts SET advantage = advantage + 1");
  ExpectOnly("advantages_are_of_their_rewards", "the advantages of prompt 0 do not balance");
  Corrupt("UPDATE rollouts SET bytes = x''");
  Look();
  EXPECT_EQ(code_, 1);
}

TEST_F(FsckTest, SettingsThatNeedLengthsTakeThemOfTheMessages) {
  Corrupt(
      "UPDATE meta SET value = replace(value, '\"group_std\"', '\"length_weighted\"') "
      "WHERE key = 'settings'");
  Corrupt("UPDATE rollouts SET reward = 0.5, advantage = 0");
  Corrupt("UPDATE steps SET reward = 0.5 WHERE stage = 'rl'");
  ExpectSound();
  Corrupt("UPDATE rollouts SET reward = sample");  // other tokens: another baseline than the mean
  Look();
  EXPECT_THAT(table_, HasSubstr("has advantage 0, the rewards of its group give "));
  Corrupt("UPDATE rollouts SET bytes = x''");
  Look();
  EXPECT_THAT(table_, HasSubstr("balance: the ledger does not hold all their messages"));
}

TEST_F(FsckTest, ARolloutOfAVersionThatNobodyKnowsIsFound) {
  Corrupt("UPDATE rollouts SET min_version = 77, max_version = 77 WHERE grp = 7 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("of prompt 7 names version 77, which the ledger does not know"));
}

TEST_F(FsckTest, StalenessOverTheBoundIsFoundAndOnlyWhenABoundIsGiven) {
  Corrupt("UPDATE rollouts SET min_version = 1 WHERE grp = 6 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  const std::string old = "of prompt 6 is 5 steps old (version 1 of step 0), the bound is 0";
  EXPECT_THAT(table_, HasSubstr(old));
  Look(5);
  EXPECT_THAT(table_, Not(HasSubstr(old)));
  std::ostringstream out, table;
  RunFsck({.run = folder_}, out, table);
  EXPECT_THAT(table.str(), HasSubstr("staleness is not judged"));
  EXPECT_THAT(table.str(), Not(HasSubstr(old)));
}

TEST_F(FsckTest, TheNewestVersionOfARolloutCountsToo) {
  Corrupt("UPDATE rollouts SET max_version = 77 WHERE grp = 7 AND sample = 0");
  Look();
  EXPECT_EQ(code_, 1);
  EXPECT_THAT(table_, HasSubstr("of prompt 7 names version 77, which the ledger does not know"));
}

TEST_F(FsckTest, AMessageThatIsDamagedIsFound) {
  Corrupt("UPDATE rollouts SET bytes = x'00ff00' WHERE grp = 3 AND sample = 0");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 3 is damaged: its bytes are no");
}

TEST_F(FsckTest, AMessageOfAnotherRolloutIsFound) {
  Corrupt(
      "UPDATE rollouts SET bytes = (SELECT bytes FROM rollouts WHERE grp = 0 AND sample = 0) "
      "WHERE grp = 3 AND sample = 0");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 3 calls itself g000000");
}

TEST_F(FsckTest, ARowThatContradictsItsMessageIsFound) {
  Corrupt("UPDATE rollouts SET total_tokens = total_tokens + 1 WHERE grp = 5 AND sample = 1");
  ExpectOnly("messages_say_what_the_ledger_says", "of prompt 5: total_tokens is ");
}

// With the message of sample 1 of prompt 7.
constexpr char kKeep[] =
    "INSERT INTO cut_samples SELECT %d, %d, '', bytes FROM rollouts WHERE grp = 7 AND sample = 1";

TEST_F(FsckTest, ASampleThatWasCutOffAnOpenPromptIsSound) {
  ASSERT_TRUE(
      (*Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed))->OpenGroup("registers").ok());
  Corrupt(absl::StrFormat(kKeep, 8, 1));
  Look();
  EXPECT_EQ(code_, 0) << table_;
  Corrupt("UPDATE cut_samples SET sample = 0");
  ExpectOnly("cut_samples_can_go_on", "sample 0 of prompt 8 says that it is of sample 1");
  Corrupt("UPDATE cut_samples SET bytes = x'00ff00'");
  ExpectOnly("cut_samples_can_go_on", "sample 0 of prompt 8 is damaged");
  Corrupt("UPDATE cut_samples SET grp = 30");
  ExpectOnly("cut_samples_can_go_on", "there is no such prompt");
}

TEST_F(FsckTest, AnEpisodeThatWasCutHasItsLogAndItsResponses) {
  ASSERT_TRUE(
      (*Ledger::Open(folder_ + "/ledger.sqlite", kRun, kSeed))->OpenGroup("registers").ok());
  Corrupt(
      "INSERT INTO cut_samples SELECT 8, 1, '', bytes FROM rollouts WHERE grp = 7 AND sample = 0");
  Corrupt("INSERT INTO cut_episodes VALUES(8, 1, 2, 'registers', 1, 0, 8, '')");
  Look();
  EXPECT_EQ(code_, 0) << table_;
  Corrupt("UPDATE cut_episodes SET responses = 0");
  ExpectOnly("cut_samples_can_go_on",
             "sample 1 of prompt 8 has 1 responses, its episode was kept at 0");
  Corrupt("DELETE FROM cut_samples");
  ExpectOnly("cut_samples_can_go_on", "sample 1 of prompt 8: its episode is there, its log is not");
}

TEST_F(FsckTest, ASampleThatIsKeptThoughItWasAcceptedIsFound) {
  Corrupt(absl::StrFormat(kKeep, 7, 1));
  ExpectOnly("cut_samples_can_go_on", "sample 1 of prompt 7: the prompt is not open any more");
  EXPECT_THAT(table_, HasSubstr("sample 1 of prompt 7: its rollout was accepted"));
}

}  // namespace
}  // namespace palimpsest::tools
