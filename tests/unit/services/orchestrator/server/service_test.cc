#include "services/orchestrator/server/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {
namespace {

// A run that stands still.
class StillRun : public RunView {
 public:
  Progress progress;
  RolloutPage page;
  mutable RolloutFilter asked;
  bool paused = false;
  absl::Duration drained = absl::ZeroDuration();

  Progress Now() const override { return progress; }
  Progress WaitForChange(int64_t, absl::Duration) const override { return progress; }
  bool Ended() const override { return true; }
  int32_t InFlight() const override { return 12; }
  void SetPaused(bool value) override { paused = value; }
  bool Paused() const override { return paused; }
  void Drain(absl::Duration grace) override { drained = grace; }
  absl::StatusOr<RolloutPage> ListRollouts(const RolloutFilter& filter) const override {
    asked = filter;
    return page;
  }
  absl::StatusOr<RolloutRow> GetRollout(const std::string& id) const override {
    for (const RolloutRow& row : page.rows) {
      if (row.id == id) return row;
    }
    return absl::NotFoundError("rollout_id=" + id);
  }
  absl::StatusOr<std::vector<std::string>> Pieces(
      const std::vector<int32_t>& tokens) const override {
    std::vector<std::string> pieces;
    for (const int32_t token : tokens) pieces.emplace_back(1, static_cast<char>(token));
    return pieces;
  }
};

class ServiceTest : public testing::Test {
 protected:
  StillRun run_;
  WireRolloutCodec codec_;
  OrchestratorServer server_{run_, v1::ServerInfo(), [] { return std::vector<PeerFacts>(); },
                             [] { return false; }, codec_};
};

TEST_F(ServiceTest, AnotherRevisionIsRefused) {
  v1::OrchestratorServiceGetServerInfoRequest request;
  v1::OrchestratorServiceGetServerInfoResponse response;
  request.set_revision(99);
  EXPECT_EQ(server_.GetServerInfo(nullptr, &request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  EXPECT_TRUE(server_.GetServerInfo(nullptr, &request, &response).ok());
  EXPECT_EQ(response.state(), v1::SERVING_STATE_SERVING);
}

TEST_F(ServiceTest, ProgressLeavesOutWhatIsNotKnown) {
  v1::GetProgressResponse response;
  ASSERT_TRUE(server_.GetProgress(nullptr, nullptr, &response).ok());
  EXPECT_FALSE(response.progress().has_reward());
  run_.progress.reward = 0.5;
  run_.progress.phase = Phase::kRl;
  run_.progress.heldout = {{4, 0.3, 0.9, 200}};
  ASSERT_TRUE(server_.GetProgress(nullptr, nullptr, &response).ok());
  EXPECT_EQ(response.progress().reward(), 0.5);
  EXPECT_EQ(response.progress().phase(), v1::RUN_PHASE_RL);
  EXPECT_EQ(response.progress().heldout(0).greedy_reward(), 0.9);
}

TEST_F(ServiceTest, ListPassesItsFilterOnAndRefusesABadOne) {
  v1::ListRolloutsRequest request;
  v1::ListRolloutsResponse response;
  request.set_group_id("g000012");
  request.set_step(3);
  request.set_outcome(v1::OUTCOME_OK);
  request.set_page_token("77");
  run_.page = {{RolloutRow{.id = "a", .group = 12}}, 5};
  ASSERT_TRUE(server_.ListRollouts(nullptr, &request, &response).ok());
  EXPECT_EQ(run_.asked.group, 12);
  EXPECT_EQ(run_.asked.step, 3);
  EXPECT_EQ(run_.asked.before, 77);
  EXPECT_EQ(run_.asked.limit, 50);
  EXPECT_EQ(response.rollouts(0).group_id(), "g000012");
  EXPECT_EQ(response.next_page_token(), "5");
  request.set_page_size(1001);
  EXPECT_THAT(server_.ListRollouts(nullptr, &request, &response).error_message(),
              testing::HasSubstr("page_size=1001"));
  request.set_page_size(1);
  request.set_group_id("12");
  EXPECT_THAT(server_.ListRollouts(nullptr, &request, &response).error_message(),
              testing::HasSubstr("group_id"));
}

TEST_F(ServiceTest, GetRolloutGivesTextAndPieces) {
  rl::Rollout rollout;
  rollout.id = "a";
  rollout.tokens = {'?', 'x', 'y'};
  rollout.prompt_tokens = 1;
  rollout.origins = {rl::Origin::kPrompt, rl::Origin::kSampled, rl::Origin::kSampled};
  rollout.logprobs = {0, -1, -2};
  rollout.spans = {{1, 3, PolicyVersion(4), 0}};
  RolloutRow row{.id = "a", .text = "xy", .bytes = codec_.Encode(rollout)};
  run_.page.rows = {row};
  v1::GetRolloutRequest request;
  v1::GetRolloutResponse response;
  request.set_rollout_id("a");
  ASSERT_TRUE(server_.GetRollout(nullptr, &request, &response).ok());
  EXPECT_EQ(response.prompt_text(), "?");
  EXPECT_EQ(response.response_text(), "xy");
  EXPECT_EQ(response.pieces_size(), 3);
  EXPECT_EQ(response.trainer_logprobs_size(), 0);
  row.replayed = {-1.5f, -2.5f};
  run_.page.rows = {row};
  ASSERT_TRUE(server_.GetRollout(nullptr, &request, &response).ok());
  EXPECT_THAT(response.trainer_logprobs(), testing::ElementsAre(0, -1.5f, -2.5f));
  run_.page.rows[0].replayed.pop_back();
  EXPECT_EQ(server_.GetRollout(nullptr, &request, &response).error_code(),
            grpc::StatusCode::DATA_LOSS);
  request.set_rollout_id("b");
  EXPECT_EQ(server_.GetRollout(nullptr, &request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServiceTest, SwitchesReachTheRun) {
  v1::OrchestratorServicePauseResponse paused;
  ASSERT_TRUE(server_.Pause(nullptr, nullptr, &paused).ok());
  EXPECT_TRUE(run_.paused);
  EXPECT_EQ(paused.in_flight(), 12);
  ASSERT_TRUE(server_.Resume(nullptr, nullptr, nullptr).ok());
  EXPECT_FALSE(run_.paused);
  v1::OrchestratorServiceDrainRequest request;
  v1::OrchestratorServiceDrainResponse drained;
  request.set_grace_seconds(2);
  ASSERT_TRUE(server_.Drain(nullptr, &request, &drained).ok());
  EXPECT_EQ(run_.drained, absl::Seconds(2));
  request.set_grace_seconds(-1);
  EXPECT_FALSE(server_.Drain(nullptr, &request, &drained).ok());
}

}  // namespace
}  // namespace palimpsest::orchestrator
