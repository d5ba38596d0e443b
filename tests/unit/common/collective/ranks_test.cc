#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_format.h"
#include "common/collective/join.h"
#include "tests/unit/common/collective/rank_process.h"
#include "tests/unit/common/tls/pki.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Minutes(2);  // other tests share the cores

// Both ways: Gloo in clear text, and the mesh under TLS.
class RanksTest : public ::testing::TestWithParam<bool> {
 protected:
  RanksTest()
      : folder_(absl::StrFormat("%s/ranks-%d-%d", ::testing::TempDir(), GetParam(), getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(tls());
    Pki().WriteTo(tls());
  }
  ~RanksTest() override { std::filesystem::remove_all(folder_); }

  RankProcesses Start(int size, const std::string& what) const {
    RankProcesses ranks;
    for (int rank = 0; rank < size; ++rank) {
      std::vector<std::string> words = {COLLECTIVE_RANK, folder_ + "/ranks", std::to_string(rank),
                                        std::to_string(size), what};
      if (GetParam()) words.push_back(tls());
      ranks.push_back(
          std::make_unique<RankProcess>(words, absl::StrFormat("%s/%d.txt", folder_, rank)));
    }
    return ranks;
  }
  std::string tls() const { return folder_ + "/tls"; }
  // Of all ranks but `victim`: they end with an error that holds `text`, and soon.
  void ExpectErrors(RankProcesses& ranks, int victim, const std::string& text) const {
    const absl::Time start = absl::Now();
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      if (static_cast<int>(rank) == victim) continue;
      EXPECT_EQ(ranks[rank]->AwaitEnd(kPatience), 1) << rank << ": " << ranks[rank]->Output();
      EXPECT_THAT(ranks[rank]->Output(), HasSubstr("ABORTED: ")) << rank;
      EXPECT_THAT(ranks[rank]->Output(), HasSubstr(text)) << rank;
    }
    EXPECT_LT(absl::Now() - start, absl::Seconds(20));  // timeout 3 s, roll call 1 s
  }
  static void AwaitReady(RankProcesses& ranks) {
    for (const auto& rank : ranks) ASSERT_TRUE(rank->AwaitOutput("ready", kPatience));
  }

  const std::string folder_;
};

TEST_P(RanksTest, AllCallsDoWhatTheySayForOneTwoAndFourRanks) {
  for (const int size : {1, 2, 4}) {
    RankProcesses ranks = Start(size, "all");
    for (const auto& rank : ranks) EXPECT_EQ(rank->AwaitEnd(kPatience), 0) << rank->Output();
  }
}

TEST_P(RanksTest, AKilledRankIsNamedByAllOthers) {
  for (const int victim : {0, 2}) {
    RankProcesses ranks = Start(3, "sums");
    AwaitReady(ranks);
    ranks[victim]->Signal(SIGKILL);
    ExpectErrors(ranks, victim, absl::StrFormat("rank %d of 3 does not answer", victim));
  }
}

TEST_P(RanksTest, AStoppedRankIsNamedByAllOthers) {
  for (const int victim : {0, 1}) {
    RankProcesses ranks = Start(3, "sums");
    AwaitReady(ranks);
    ranks[victim]->Signal(SIGSTOP);
    ExpectErrors(ranks, victim, absl::StrFormat("rank %d of 3 does not answer", victim));
  }
}

TEST_P(RanksTest, WhoIsLostWhileOperationsAreUnderWayIsNamedToo) {
  for (const int signal : {SIGKILL, SIGSTOP}) {
    RankProcesses ranks = Start(3, "begun");
    AwaitReady(ranks);
    ranks[1]->Signal(signal);
    ExpectErrors(ranks, 1, "rank 1 of 3 does not answer");
  }
}

TEST_P(RanksTest, ARankThatIsAliveButDoesNotComeIsNamedWithItsLastCall) {
  RankProcesses ranks = Start(3, "late");
  AwaitReady(ranks);
  ExpectErrors(ranks, 1, "rank 1 is alive but has not come: its last was call 1, barrier");
}

TEST_P(RanksTest, ARankThatFailsTellsTheOthersWhy) {
  RankProcesses ranks = Start(3, "fails");
  ExpectErrors(ranks, 1, "rank 1 failed: RESOURCE_EXHAUSTED: out of memory");
  EXPECT_EQ(ranks[1]->AwaitEnd(kPatience), 1);
}

TEST_P(RanksTest, WhoWaitsWithoutEndNoticesTheDeathOfTheOneItWaitsFor) {
  RankProcesses ranks = Start(2, "idle");
  AwaitReady(ranks);
  ranks[0]->Signal(SIGKILL);
  ExpectErrors(ranks, 0, "rank 0 of 2 does not answer");
}

INSTANTIATE_TEST_SUITE_P(Both, RanksTest, ::testing::Bool(), [](const auto& way) {
  return std::string(way.param ? "UnderTls" : "InClearText");
});

}  // namespace
}  // namespace palimpsest
