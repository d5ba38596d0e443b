#include "tools/doctor/meeting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/unit/common/weights/scratch_folder.h"
#include "tools/doctor/finding_json.h"
#include "tools/doctor/nodes.h"

namespace palimpsest::tools {
namespace {

using testing::HasSubstr;

// A machine whose clock is wrong.
class WrongClock final : public Clock {
 public:
  explicit WrongClock(absl::Duration ahead) : ahead_(ahead) {}
  absl::Time Now() override { return SystemClock().Now() + ahead_; }
  void SleepFor(absl::Duration d) override { SystemClock().SleepFor(d); }

 private:
  const absl::Duration ahead_;
};

// Names of this machine stand for nodes.
const std::vector<std::string> kNodes = {"127.0.0.1", "127.0.0.2", "localhost"};

TEST(MeetingTest, ThreeNodesMeasureEachOtherWhateverTheirClocksSay) {
  const weights::ScratchFolder folder;
  const std::vector<absl::Duration> ahead = {absl::ZeroDuration(), absl::Seconds(100),
                                             absl::Seconds(-40)};
  std::vector<absl::StatusOr<std::vector<Acquaintance>>> met(3);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      WrongClock clock(ahead[i]);
      met[i] = Meet({.folder = folder.path(), .node = kNodes[i], .nodes = 3}, clock);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(met[i].ok()) << met[i].status();
    ASSERT_EQ(met[i]->size(), 2u);
    for (const Acquaintance& other : *met[i]) {
      const size_t j =
          static_cast<size_t>(std::find(kNodes.begin(), kNodes.end(), other.node) - kNodes.begin());
      ASSERT_LT(j, 3u);
      EXPECT_NE(j, i);
      EXPECT_TRUE(other.reached.ok()) << other.reached;
      EXPECT_LT(other.round_trip, absl::Seconds(5));
      EXPECT_NEAR(absl::ToDoubleSeconds(other.clock_ahead - (ahead[j] - ahead[i])), 0, 2);
      // Told by the raw clocks it would be wrong by up to 140 s.
      EXPECT_LT(other.visible_after, absl::Seconds(10));
    }
  }
}

TEST(MeetingTest, ANodeThatNeverComesIsMissedWithinPatience) {
  const weights::ScratchFolder folder;
  const auto met = Meet({.folder = folder.path(),
                         .node = "localhost",
                         .nodes = 2,
                         .patience = absl::Milliseconds(200)},
                        SystemClock());
  EXPECT_TRUE(absl::IsDeadlineExceeded(met.status()));
  EXPECT_THAT(std::string(met.status().message()), HasSubstr("1 of 2 nodes"));
}

// Nobody listens at the place of the third: the others still measure each other.
TEST(MeetingTest, ANodeThatCannotBeReachedByItsNameIsTold) {
  const weights::ScratchFolder folder;
  weights::Write(folder / "127.0.0.3.here", "1");
  std::vector<absl::StatusOr<std::vector<Acquaintance>>> met(2);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      met[i] = Meet(
          {.folder = folder.path(), .node = kNodes[i], .nodes = 3, .patience = absl::Seconds(5)},
          SystemClock());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : met) {
    ASSERT_TRUE(one.ok()) << one.status();
    EXPECT_TRUE((*one)[0].reached.ok());
    EXPECT_LT((*one)[0].visible_after, absl::Seconds(5));
    EXPECT_EQ((*one)[1].node, "127.0.0.3");
    EXPECT_THAT(std::string((*one)[1].reached.message()), HasSubstr("127.0.0.3:1"));
    EXPECT_EQ((*one)[1].visible_after, absl::InfiniteDuration());
  }
}

TEST(NodesTest, WhatPassesEverywhereIsToldOnceAndTheRestByNode) {
  const Finding good{"fsync", Verdict::kPass, "1 ms"},
      bad{"memory", Verdict::kFail, "1 MiB", "buy"};
  Finding of_b = bad, warned = bad;
  of_b.node = "b";
  warned.node = "a";
  warned.verdict = Verdict::kWarn;
  const std::vector<Finding> merged = Merge({{"a", {good, warned}}, {"b", {good, of_b}}});
  ASSERT_EQ(merged.size(), 3u);
  EXPECT_EQ(merged[0].name, "fsync");
  EXPECT_EQ(merged[0].node, "");
  EXPECT_EQ(merged[1].node, "a");
  EXPECT_EQ(merged[2].node, "b");
}

TEST(NodesTest, FindingsTravelWhole) {
  const std::vector<Finding> findings = {{"a", Verdict::kPass, "x"},
                                         {"b", Verdict::kFail, "\"y\"", "do", "n1"}};
  const auto back = FindingsFromJson(ToJson(findings));
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), 2u);
  EXPECT_EQ((*back)[1].verdict, Verdict::kFail);
  EXPECT_EQ((*back)[1].saw, "\"y\"");
  EXPECT_EQ((*back)[1].node, "n1");
  EXPECT_TRUE(absl::IsDataLoss(FindingsFromJson("[{\"name\": 1}]").status()));
}

TEST(NodesTest, CpusOfANodeStandInSlurmsListInTheOrderOfTheNodes) {
  EXPECT_EQ(CpusOf("16(x2),8", 0), 16);
  EXPECT_EQ(CpusOf("16(x2),8", 1), 16);
  EXPECT_EQ(CpusOf("16(x2),8", 2), 8);
  EXPECT_EQ(CpusOf("16(x2),8", 3), 0);
  EXPECT_EQ(CpusOf("4", 0), 4);
  EXPECT_EQ(CpusOf("", 0), 0);
  EXPECT_EQ(CpusOf("4(x?)", 0), 0);
}

}  // namespace
}  // namespace palimpsest::tools
