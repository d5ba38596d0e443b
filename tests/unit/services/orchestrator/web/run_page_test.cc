#include "services/orchestrator/web/run_page.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace palimpsest::orchestrator {
namespace {

using nlohmann::json;

// The bytes of a rollout are its text, a token a byte.
class PlainCodec final : public RolloutCodec {
 public:
  std::string Encode(const rl::Rollout&) const override { return ""; }
  absl::StatusOr<rl::Rollout> Decode(std::string_view bytes) const override {
    rl::Rollout rollout;
    for (const char c : bytes) {
      rollout.tokens.push_back(c);
      rollout.origins.push_back(rl::Origin::kSampled);
      rollout.logprobs.push_back(-1);
    }
    return rollout;
  }
};

class RunPageTest : public testing::Test {
 protected:
  RunPageTest()
      : folder_(testing::TempDir() + "/page-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    ledger_ = Ledger::Open(folder_ + "/ledger.sqlite", "run", 3).value();
    EXPECT_TRUE(ledger_->BeginAttempt(clock_.Now()).ok());
  }
  ~RunPageTest() override { std::filesystem::remove_all(folder_); }

  void Accept(const std::string& id, const std::string& bytes) {
    const GroupRow group = ledger_->OpenGroup("task").value();
    RolloutRow row{.id = id, .group = group.id, .bytes = bytes};
    ASSERT_TRUE(ledger_->Accept(group.id, {row}, true, clock_.Now()).ok());
  }
  json Get(const std::string& path, int status = 200,
           std::map<std::string, std::string> parameters = {}) {
    const HttpAnswer answer = page_->Answer({path, std::move(parameters)});
    EXPECT_EQ(answer.status, status) << answer.body;
    return json::parse(answer.body);
  }

  std::string folder_;
  FakeClock clock_{absl::FromUnixSeconds(5000)};
  PlainCodec codec_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<RunPage> page_ = nullptr;
  void Open(std::optional<LiveRun> live = std::nullopt) {
    auto opened = RunPage::Open(folder_, codec_, clock_, std::move(live));
    ASSERT_TRUE(opened.ok()) << opened.status();
    page_ = *std::move(opened);
  }
};

TEST_F(RunPageTest, WhatTheRunCommitsIsSeenWithoutOpeningAgain) {
  Open();
  EXPECT_EQ(Get("/api/rollouts")["rows"].size(), 0u);
  Accept("one", "abc");
  EXPECT_EQ(Get("/api/rollouts")["rows"][0]["id"], "one");
  EXPECT_EQ(Get("/api/rollouts/one")["ids"], json::parse("[97, 98, 99]"));
}

// A page that is read for long must not hold up those who write.
TEST_F(RunPageTest, AReaderInTheMiddleOfAnAnswerHoldsUpNoWriter) {
  const auto reader = Database::OpenReadOnly(folder_ + "/ledger.sqlite").value();
  Accept("one", "a");
  Accept("two", "b");
  Statement rows = reader->Query("SELECT id FROM rollouts").value();
  ASSERT_TRUE(rows.Next().value());
  Accept("three", "c");  // would wait in vain: the reader does not go on
  EXPECT_FALSE(reader->Change("DELETE FROM rollouts").ok());
}

TEST_F(RunPageTest, WithoutATokenizerTokensAreTheirNumbers) {
  Accept("one", "ab");
  Open();
  EXPECT_EQ(Get("/api/rollouts/one")["pieces"], json::parse(R"(["<97>", "<98>"])"));
}

TEST_F(RunPageTest, WhatTheTrainerReplayedStandsByPositionOrIsNull) {
  for (const char* id : {"kept", "broken", "none"}) Accept(id, "abc");
  ASSERT_TRUE(
      ledger_->MarkTrained({.step = 1}, {{"kept", {-1.5f, -0.25f, NAN}}, {"broken", {-1, -2}}})
          .ok());
  Open();
  EXPECT_EQ(Get("/api/rollouts/kept")["replayed"], json::parse("[-1.5, -0.25, null]"));
  EXPECT_TRUE(Get("/api/rollouts/none")["replayed"].is_null());
  const std::string error = Get("/api/rollouts/broken", 500)["error"];
  EXPECT_NE(error.find("2 replayed log-probabilities for 3 sampled tokens"), std::string::npos);
}

TEST_F(RunPageTest, ARunIsLiveOrRunningOrStoppedOrDone) {
  Open(LiveRun{[] { return Progress{.run = "x", .phase = Phase::kRl}; },
               [] { return std::vector<PeerFacts>{{.role = "env", .ready = true}}; }});
  EXPECT_EQ(Get("/api/progress")["phase"], "rl");
  EXPECT_EQ(Get("/api/fleet")["peers"][0]["role"], "env");
  Open();
  EXPECT_EQ(Get("/api/progress")["phase"], "running");
  EXPECT_EQ(Get("/api/fleet")["peers"].size(), 0u);
  clock_.Advance(absl::Minutes(1));
  EXPECT_EQ(Get("/api/progress")["phase"], "stopped");
  std::filesystem::create_directories(folder_ + "/report");
  std::ofstream(folder_ + "/report/report.json") << "{}";
  EXPECT_EQ(Get("/api/progress")["phase"], "done");
}

TEST_F(RunPageTest, APageSaysOfWhichFolderItIsAndHowAnErrorIsCalled) {
  const std::string folder = std::filesystem::canonical(folder_).string();
  Open();
  EXPECT_EQ(Get("/api/progress")["folder"], folder);
  EXPECT_EQ(Get("/api/nothing", 404)["code"], "NOT_FOUND");
  Open(LiveRun{[] { return Progress{.run = "x"}; }, [] { return std::vector<PeerFacts>(); }});
  EXPECT_EQ(Get("/api/progress")["folder"], folder);
}

TEST_F(RunPageTest, APageIsBoundedAndItsParametersAreKnown) {
  for (int i = 0; i < 60; ++i) Accept("r" + std::to_string(i), "a");
  Open();
  const json page = Get("/api/rollouts");
  EXPECT_EQ(page["rows"].size(), 50u);
  EXPECT_EQ(Get("/api/rollouts", 200, {{"before", page["next"].dump()}})["rows"].size(), 10u);
  EXPECT_EQ(Get("/api/rollouts", 400, {{"limit", "201"}})["error"],
            "limit='201' is no whole number of [1, 200]");
  EXPECT_EQ(Get("/api/curves", 400, {{"limit", "1"}})["error"],
            "limit: there is no such parameter here");
  EXPECT_EQ(Get("/api/other", 404)["error"], "/api/other: there is no such page");
}

TEST_F(RunPageTest, AFolderWithoutALedgerIsRefusedAndNoneIsMade) {
  const std::string empty = folder_ + "/empty";
  std::filesystem::create_directories(empty);
  EXPECT_TRUE(absl::IsNotFound(RunPage::Open(empty, codec_, clock_, std::nullopt).status()));
  EXPECT_TRUE(std::filesystem::is_empty(empty));
}

}  // namespace
}  // namespace palimpsest::orchestrator
